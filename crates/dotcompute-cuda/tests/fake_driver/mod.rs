//! Runs tests on a fake CUDA driver (`libcuda.c`), which runs kernels on threads of the host.

// Each test program uses some of it.
#![allow(dead_code)]

use std::env;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dotcompute_cuda::cuda::{CudaBackend, CudaOptions};

use crate::common;

/// Environment variable of a process on the fake driver: the driver's folder.
const FOLDER_ENV_VAR: &str = "DOTCOMPUTE_TEST_FAKE_DRIVER";

/// The driver's sources. Part of the program: a bundle has no source tree.
const SOURCES: [(&str, &str); 5] = [
    ("libcuda.c", include_str!("libcuda.c")),
    ("contexts.h", include_str!("contexts.h")),
    ("queues.h", include_str!("queues.h")),
    ("memory.h", include_str!("memory.h")),
    ("kernels.h", include_str!("kernels.h")),
];

/// In the names of tests that run others of their program on the fake driver.
const STARTS_THE_FAKE_DRIVER: &str = "on_the_fake_driver";

/// Compiles the driver into a folder, for `LD_LIBRARY_PATH`.
pub fn build(folder: &Path) {
    for (name, text) in SOURCES {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o"]).arg(folder.join("libcuda.so"));
    let status = compiler.arg(folder.join("libcuda.c")).args(["-lpthread", "-ldl"]).status();
    let status = status.expect("a C compiler, `cc`, as CONTRIBUTING.md asks for");
    assert!(status.success(), "{compiler:?}: {status}");
}

/// The driver's folder, in a process that runs on it.
pub fn folder() -> Option<PathBuf> {
    env::var_os(FOLDER_ENV_VAR).map(PathBuf::from)
}

/// Whether tests must find a device.
fn is_device_required() -> bool {
    folder().is_some() || env::var("DOTCOMPUTE_DEVICE").as_deref() == Ok("cuda")
}

/// The opened value. If there is no device and none is required: none, after printing why the test is skipped.
pub fn opened<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| {
            assert!(!is_device_required(), "{error}");
            println!("skipped: {error}");
        })
        .ok()
}

/// Why this machine cannot run tests on a device, unless a device is required.
pub fn unavailable() -> Option<String> {
    let error = CudaBackend::with_options(options()).err()?;
    assert!(!is_device_required(), "{error}");
    Some(error.to_string())
}

/// Options of the tests.
pub fn options() -> CudaOptions {
    let mut options = CudaOptions::default();
    options.search = common::search();
    options
}

/// A backend, unless the test is skipped.
pub fn backend(change: impl FnOnce(&mut CudaOptions)) -> Option<Arc<CudaBackend>> {
    let mut options = options();
    change(&mut options);
    opened(CudaBackend::with_options(options))
}

/// Device code with a mark by which the fake driver finds the library to run instead.
pub fn marked(text: &str, library: &Path) -> String {
    format!(
        "extern \"C\" __device__ const char dc_mark[] = \"FAKE_KERNEL={}\";\n\
         extern \"C\" __device__ const volatile char *volatile dc_marked = dc_mark;\n{text}",
        library.display()
    )
}

/// Compiles device code for the host, once per text and driver folder. The text may include the headers of the device code.
pub fn host_library(folder: &Path, text: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let library = folder.join(format!("kernel-{:016x}.so", hasher.finish()));
    if library.exists() {
        return library;
    }
    let sources = tempfile::tempdir_in(folder).unwrap();
    for (name, header) in dotcompute_cuda::device_code::HEADERS {
        std::fs::write(sources.path().join(name), header).unwrap();
    }
    let (source, output) = (sources.path().join("kernel.cpp"), sources.path().join("kernel.so"));
    std::fs::write(&source, text).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-DDOTCOMPUTE_EMULATED", "-o"]);
    assert!(compiler.arg(&output).arg(source).status().unwrap().success(), "{compiler:?}");
    // Complete when it appears: other threads and processes may want the same one.
    std::fs::rename(output, &library).unwrap();
    library
}

/// The text of a one-shot kernel with parameters of these types. For the fake driver, with a function that runs all threads of a grid.
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

/// The tests of this program that can run on either driver.
fn tests() -> Vec<String> {
    let list =
        Command::new(env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| !name.contains(STARTS_THE_FAKE_DRIVER)).map(str::to_owned).collect()
}

/// Whether this test can start others on the fake driver. If not, says why.
fn can_start() -> bool {
    if folder().is_some() {
        common::skipped("this process runs on the fake driver already");
        return false;
    }
    if !cfg!(target_os = "linux") {
        common::skipped("the fake driver is for Linux");
        return false;
    }
    common::toolchain().is_some()
}

/// Runs each other test of this program on the fake driver, in a process of its own as on a GPU. Calls that wait beside a resident kernel
/// are allowed in the tests in `waiting`, and expected there; anywhere else they are an error. So are launches that share a hardware queue
/// with a resident kernel, and frees of what a reset has freed.
pub fn run_all_tests(waiting: &[&str]) {
    if !can_start() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    build(folder.path());
    let tests = tests();
    assert!(waiting.iter().all(|test| tests.iter().any(|name| name == test)), "{waiting:?} of {tests:?}");
    for test in &tests {
        // The process has several threads, so the backend does not set the variable.
        let text = run(folder.path(), test, &[("CUDA_DEVICE_MAX_CONNECTIONS", "32")]);
        has_no_fault(test, &text, &["ALIASES", "STALE", "reset"]);
        let waits = text.contains("WAITS");
        assert_eq!(
            waiting.contains(&test.as_str()),
            waits,
            "{test}: calls that wait beside a resident kernel:\n{text}"
        );
    }
}

/// Runs some tests on the fake driver with these variables, and checks that none of the `faults` is in their output.
pub fn run_tests(selects: impl Fn(&str) -> bool, variables: &[(&str, &str)], faults: &[&str]) {
    if !can_start() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    build(folder.path());
    let selected: Vec<String> = tests().into_iter().filter(|test| selects(test)).collect();
    assert!(!selected.is_empty(), "no test of this program is selected");
    for test in selected {
        has_no_fault(&test, &run(folder.path(), &test, variables), faults);
    }
}

fn has_no_fault(test: &str, text: &str, faults: &[&str]) {
    for fault in faults {
        assert!(!text.contains(fault), "{test}: {fault}, see libcuda.c:\n{text}");
    }
}

/// Runs a test in a process of its own on the driver in `folder`, and returns its output.
fn run(folder: &Path, test: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]).env(FOLDER_ENV_VAR, folder);
    child.env("LD_LIBRARY_PATH", folder).env("DOTCOMPUTE_CACHE", folder.join("cache"));
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {}\n{text}", output.status);
    text
}
