//! What ring kernels are compared with, on a GPU: a bare flag, launches and graphs. Where there is none, on a driver that pretends
//! (`fake/libcuda.c`), which runs the same text on threads.

mod common;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute_cuda::cuda::plain::{BYTES, Flag, Launches, Text, Way, probe};
use dotcompute_cuda::cuda::{CudaBackend, CudaOptions};
use dotcompute_cuda::device_code::HEADERS;

/// Names the folder of the driver that pretends, in a process that uses it.
const PRETENDS: &str = "DOTCOMPUTE_TEST_PRETENDS";

/// The kernels of the benchmark.
const PLAIN: &str = include_str!("../../dotcompute-bench/device/plain.cu");

const PATIENCE: Duration = Duration::from_secs(20);

/// A backend, or why these tests are skipped.
fn backend() -> Option<Arc<CudaBackend>> {
    let mut options = CudaOptions::default();
    options.search = common::search();
    let must_be_there =
        env::var_os(PRETENDS).is_some() || env::var("DOTCOMPUTE_DEVICE").as_deref() == Ok("cuda");
    match CudaBackend::with_options(options) {
        Ok(backend) => Some(backend),
        Err(error) if must_be_there => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// The text, with a mark by which a driver that pretends finds what it is to run in the GPU's place.
fn text(entry: &'static str) -> Text {
    let Some(folder) = env::var_os(PRETENDS) else { return Text { file: "plain.cu", text: PLAIN, entry } };
    let library = build(&PathBuf::from(folder));
    let marked = format!(
        "extern \"C\" __device__ const char dc_mark[] = \"FAKE_KERNEL={}\";\n\
         extern \"C\" __device__ const volatile char *volatile dc_marked = dc_mark;\n{PLAIN}",
        library.display()
    );
    Text { file: "plain.cu", text: marked.leak(), entry }
}

/// Compiles the kernels for the host, as the emulated device does.
fn build(folder: &Path) -> PathBuf {
    let own = tempfile::tempdir_in(folder).unwrap().keep();
    for (name, header) in HEADERS {
        std::fs::write(own.join(name), header).unwrap();
    }
    let (source, library) = (own.join("plain.cpp"), own.join("plain.so"));
    std::fs::write(&source, PLAIN).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-DDOTCOMPUTE_EMULATED", "-o"]);
    assert!(compiler.arg(&library).arg(source).status().unwrap().success(), "{compiler:?}");
    library
}

#[test]
fn a_flag_comes_back_and_its_kernel_ends_with_it() {
    let Some(backend) = backend() else { return };
    // The second is loaded when the first has gone: else it would wait for ever.
    for _ in 0..2 {
        let flag = Flag::new(&backend, text("flag")).unwrap();
        assert_eq!(flag.seen(), 0);
        for number in 1..=1000 {
            flag.send(number);
            let deadline = Instant::now() + PATIENCE;
            while flag.seen() != number {
                assert!(Instant::now() < deadline, "{number} does not come back");
            }
        }
    }
}

#[test]
fn a_message_is_answered_in_every_way() {
    let Some(backend) = backend() else { return };
    for way in [Way::Mapped, Way::Copied, Way::Graph] {
        let mut launches = Launches::new(&backend, way, text("answer")).unwrap();
        for round in 0..100 {
            let message: [u8; BYTES] = std::array::from_fn(|index| round + index as u8);
            let mut expected = message;
            expected[56] += 1;
            assert_eq!(launches.call(&message).unwrap(), expected, "{way:?}, {round}");
        }
    }
}

#[test]
fn what_does_not_compile_or_is_not_there_is_told() {
    let Some(backend) = backend() else { return };
    let broken =
        Text { file: "broken.cu", text: "extern \"C\" __global__ void f() { nothing; }", entry: "f" };
    let refused = Flag::new(&backend, broken).err().unwrap().to_string();
    assert!(refused.contains("broken.cu") && refused.contains("nothing"), "{refused}");
    let missing = Text { entry: "missing", ..text("flag") };
    let refused = Launches::new(&backend, Way::Mapped, missing).err().unwrap().to_string();
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn every_way_to_map_device_memory_has_an_outcome() {
    if backend().is_none() {
        return;
    }
    let findings = probe(0).unwrap();
    let names: Vec<_> = findings.iter().map(|finding| finding.what).collect();
    assert_eq!(names, ["dma_buf_attribute", "dma_buf_mmap", "dma_buf_mmap_pcie", "gdrdrv"]);
    for finding in &findings {
        println!("{finding:?}");
        assert!(!finding.outcome.is_empty());
        let refuses = env::var_os(PRETENDS).is_some() && finding.what.starts_with("dma_buf_mmap");
        assert!(!refuses || finding.outcome.contains("asking for a dma-buf"), "{finding:?}");
    }
}

/// Runs all of these tests again, each in a process of its own, with a driver that pretends.
#[test]
fn on_a_driver_that_pretends() {
    if env::var_os(PRETENDS).is_some() || common::toolchain().is_none() {
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
    for test in [
        "a_flag_comes_back_and_its_kernel_ends_with_it",
        "a_message_is_answered_in_every_way",
        "what_does_not_compile_or_is_not_there_is_told",
        "every_way_to_map_device_memory_has_an_outcome",
    ] {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args([test, "--exact", "--nocapture"]).env(PRETENDS, folder.path());
        child.env("LD_LIBRARY_PATH", folder.path()).env("DOTCOMPUTE_CACHE", folder.path().join("cache"));
        let output = child.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.contains("1 passed"), "{test}: {}\n{said}", output.status);
        assert!(!said.contains("WAITS"), "{test}: calls that wait beside a resident kernel:\n{said}");
    }
}
