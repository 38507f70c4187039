//! Running tests on a driver that pretends (`fake/libcuda.c`), which runs the code of kernels on threads.

// Each test program uses some of it.
#![allow(dead_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dotcompute_cuda::cuda::{CudaBackend, CudaOptions};

use crate::common;

/// Names the folder of the driver that pretends, in a process that uses it.
const PRETENDS: &str = "DOTCOMPUTE_TEST_PRETENDS";

/// The folder of the driver that pretends, in a process that uses it.
pub fn folder() -> Option<PathBuf> {
    env::var_os(PRETENDS).map(PathBuf::from)
}

/// What was opened; or nothing where there is no GPU and none must be there, and says so.
pub fn opened<T, E: std::fmt::Display>(outcome: Result<T, E>) -> Option<T> {
    let must_be_there = folder().is_some() || env::var("DOTCOMPUTE_DEVICE").as_deref() == Ok("cuda");
    match outcome {
        Ok(opened) => Some(opened),
        Err(error) if must_be_there => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// The options of tests.
pub fn options() -> CudaOptions {
    let mut options = CudaOptions::default();
    options.search = common::search();
    options
}

/// A backend, or why these tests are skipped.
pub fn backend(change: impl FnOnce(&mut CudaOptions)) -> Option<Arc<CudaBackend>> {
    let mut options = options();
    change(&mut options);
    opened(CudaBackend::with_options(options))
}

/// The text, with a mark by which the driver that pretends finds what it is to run in the GPU's place.
pub fn marked(text: &str, library: &Path) -> String {
    format!(
        "extern \"C\" __device__ const char dc_mark[] = \"FAKE_KERNEL={}\";\n\
         extern \"C\" __device__ const volatile char *volatile dc_marked = dc_mark;\n{text}",
        library.display()
    )
}

/// Compiles this text for the host, to a library of a folder of its own within `folder`. It may include the device code.
pub fn host_library(folder: &Path, text: &str) -> PathBuf {
    let own = tempfile::tempdir_in(folder).unwrap().keep();
    for (name, header) in dotcompute_cuda::device_code::HEADERS {
        std::fs::write(own.join(name), header).unwrap();
    }
    let (source, library) = (own.join("kernel.cpp"), own.join("kernel.so"));
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-DDOTCOMPUTE_EMULATED", "-o"]);
    assert!(compiler.arg(&library).arg(source).status().unwrap().success(), "{compiler:?}");
    library
}

/// A one-shot kernel with parameters of these types; for a driver that pretends, with a function that plays all threads of the GPU.
pub fn one_shot(text: &str, entry: &str, types: &[&str]) -> String {
    let Some(folder) = folder() else { return text.to_owned() };
    let sizes: String = types.iter().map(|kind| format!("sizeof({kind}), ")).collect();
    let arguments: Vec<_> =
        types.iter().enumerate().map(|(at, kind)| format!("*({kind} *)arguments[{at}]")).collect();
    let host = format!(
        "#define __global__\n#define __device__\n\
         struct dim {{ unsigned x, y, z; }};\nstatic dim threadIdx, blockIdx, blockDim, gridDim;\n{text}\n\
         extern \"C\" {{ extern const unsigned {entry}_sizes[] = {{{sizes}0}};\n\
         void {entry}_run(void **arguments, const unsigned *of) {{\n\
         gridDim = {{of[0], of[1], of[2]}}, blockDim = {{of[3], of[4], of[5]}};\n\
         for (blockIdx.x = 0; blockIdx.x < of[0]; ++blockIdx.x) for (threadIdx.x = 0; threadIdx.x < of[3]; ++threadIdx.x)\n\
         {entry}({}); }} }}\n",
        arguments.join(", ")
    );
    let first = if text.starts_with("#line") { "" } else { "#line 1\n" };
    marked(&format!("{first}{text}"), &host_library(&folder, &host))
}

/// Runs these tests of this program again, each in a process of its own, with the driver that pretends. Of those in `waiting`, and of no
/// others, calls may wait beside a resident kernel.
pub fn run(tests: &[&str], waiting: &[&str]) {
    if folder().is_some() || common::toolchain().is_none() {
        return;
    }
    if !cfg!(target_os = "linux") {
        println!("skipped: the driver that pretends is made for Linux");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/libcuda.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o"])
        .arg(folder.path().join("libcuda.so"));
    assert!(compiler.arg(source).args(["-lpthread", "-ldl"]).status().unwrap().success());
    for test in tests {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args([test, "--exact", "--nocapture"]).env(PRETENDS, folder.path());
        child.env("LD_LIBRARY_PATH", folder.path()).env("DOTCOMPUTE_CACHE", folder.path().join("cache"));
        let output = child.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("1 passed"), "{test}: {}\n{said}", output.status);
        assert_eq!(
            waiting.contains(test),
            said.contains("WAITS"),
            "{test}: calls that wait beside a resident kernel:\n{said}"
        );
    }
}
