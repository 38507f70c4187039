//! Shared by the tests that use the compiler.

// Each test program uses some of it.
#![allow(dead_code)]

use std::env;
use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;

use dotcompute_cuda::Architecture;
use dotcompute_cuda::compile::{Input, Source, Toolchain};
use dotcompute_cuda::library::Search;

/// The architectures that the tests compile for.
pub const ARCHITECTURES: [Architecture; 3] = [
    Architecture { major: 8, minor: 0 },
    Architecture { major: 9, minor: 0 },
    Architecture { major: 10, minor: 0 },
];

/// Where to search for the compiler: if `cargo xtask test --only cubins` runs the test, only in the wheels that it installs.
pub fn search() -> Search {
    match env::var_os("DOTCOMPUTE_TEST_WHEELS") {
        Some(site_packages) => Search::empty().site_packages(PathBuf::from(site_packages)),
        None => Search::from_environment(),
    }
}

/// Says that the current test is skipped, and why. The text is not captured with the output of a test that passes, so it is always seen.
pub fn skipped(reason: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Standard error cannot be written: then the text is lost.
    let _ = writeln!(std::io::stderr(), "skipped: {reason} ({test})");
}

/// The compiler. On a machine without one: none, after printing where it was searched for. If the tests run for the compiler, its absence
/// is a failure.
pub fn toolchain() -> Option<Toolchain> {
    match Toolchain::load(&search()) {
        Ok(toolchain) => Some(toolchain),
        Err(error) if env::var_os("DOTCOMPUTE_TEST_WHEELS").is_none() => {
            skipped(format_args!(
                "{error}\n`cargo xtask test --only cubins` installs a compiler and runs this test with it"
            ));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A kernel and the handler that it calls, each in its own source, and a header.
pub fn scale(architecture: Architecture) -> Input {
    Input::new("scale", architecture)
        .header(Source::new("factor.cuh", "#pragma once\nstatic const float FACTOR = 2.0f;\n"))
        .source(Source::new(
            "loop.cu",
            "extern \"C\" __device__ int handle(float* x);\n\
             extern \"C\" __global__ void scale(float* x, int* error) { error[threadIdx.x] = handle(x + threadIdx.x); }\n",
        ))
        .source(
            Source::new(
                "handler.cu",
                "#include \"factor.cuh\"\n\
                 extern \"C\" __device__ int handle(float* x) { *x *= FACTOR; return 0; }\n",
            )
            .line(40),
        )
}
