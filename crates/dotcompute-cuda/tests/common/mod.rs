//! What the tests of the compiler share.

// Each test program uses some of it.
#![allow(dead_code)]

use std::env;
use std::path::PathBuf;

use dotcompute_cuda::Architecture;
use dotcompute_cuda::compile::{Input, Source, Toolchain};
use dotcompute_cuda::library::Search;

/// The architectures that everything is compiled for.
pub const ARCHITECTURES: [Architecture; 3] = [
    Architecture { major: 8, minor: 0 },
    Architecture { major: 9, minor: 0 },
    Architecture { major: 10, minor: 0 },
];

/// Where the compiler is looked for: in the wheels that `cargo xtask test --only cubins` installs and nowhere else, if that runs the
/// test.
pub fn search() -> Search {
    match env::var_os("DOTCOMPUTE_TEST_WHEELS") {
        Some(site_packages) => Search::empty().site_packages(PathBuf::from(site_packages)),
        None => Search::from_environment(),
    }
}

/// The compiler. On a machine that has none, says so and where it was looked for, and gives none; unless the compiler is what the
/// tests are run for: then it must be there.
pub fn toolchain() -> Option<Toolchain> {
    match Toolchain::load(&search()) {
        Ok(toolchain) => Some(toolchain),
        Err(error) if env::var_os("DOTCOMPUTE_TEST_WHEELS").is_none() => {
            println!("skipped: {error}");
            println!("`cargo xtask test --only cubins` runs this test with a compiler of its own");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A kernel that calls a handler, each in a source of its own, and a header.
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
