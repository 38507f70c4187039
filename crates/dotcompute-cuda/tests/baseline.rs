//! The baselines of the benchmark on a GPU: a flag ping-pong, per-message launches and graphs. Without a GPU they run on the fake driver
//! (`fake_driver/libcuda.c`), which runs the same text on threads.

mod common;
mod fake_driver;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_cuda::cuda::CudaBackend;
use dotcompute_cuda::cuda::baseline::{
    BYTES, FlagPingPong, KernelSource, LaunchMethod, PerMessageLaunch, probe,
};

/// The benchmark's kernels.
const BASELINE: &str = include_str!("../../dotcompute-bench/device/baseline.cu");

fn backend() -> Option<Arc<CudaBackend>> {
    fake_driver::backend(|_| {})
}

fn text(entry: &'static str) -> KernelSource {
    let Some(folder) = fake_driver::folder() else {
        return KernelSource { file: "baseline.cu", text: BASELINE, entry };
    };
    let text = fake_driver::marked(BASELINE, &fake_driver::host_library(&folder, BASELINE));
    KernelSource { file: "baseline.cu", text: text.leak(), entry }
}

#[test]
fn a_flag_is_echoed_and_dropping_it_ends_its_kernel() {
    watchdog!();
    let Some(backend) = backend() else { return };
    // The second kernel is loaded after the first has exited: loading waits for the whole device.
    for _ in 0..2 {
        let flag = FlagPingPong::new(&backend, text("flag")).unwrap();
        assert_eq!(flag.seen(), 0);
        for number in 1..=1000 {
            flag.send(number);
            let deadline = Instant::now() + TIMEOUT;
            while flag.seen() != number {
                assert!(Instant::now() < deadline, "{number} is not echoed");
            }
        }
    }
}

#[test]
fn every_launch_method_replies_to_a_message() {
    watchdog!();
    let Some(backend) = backend() else { return };
    for method in [LaunchMethod::Mapped, LaunchMethod::Copied, LaunchMethod::Graph] {
        let mut launches = PerMessageLaunch::new(&backend, method, text("answer")).unwrap();
        for round in 0..100 {
            let message: [u8; BYTES] = std::array::from_fn(|index| round + index as u8);
            let mut expected = message;
            expected[56] += 1;
            assert_eq!(launches.call(&message).unwrap(), expected, "{method:?}, {round}");
        }
    }
}

#[test]
fn a_kernel_that_does_not_compile_or_exist_is_an_error() {
    watchdog!();
    let Some(backend) = backend() else { return };
    let broken =
        KernelSource { file: "broken.cu", text: "extern \"C\" __global__ void f() { nothing; }", entry: "f" };
    let error = FlagPingPong::new(&backend, broken).err().unwrap().to_string();
    assert!(error.contains("broken.cu") && error.contains("nothing"), "{error}");
    let missing = KernelSource { entry: "missing", ..text("flag") };
    let error = PerMessageLaunch::new(&backend, LaunchMethod::Mapped, missing).err().unwrap().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn every_export_method_is_probed() {
    watchdog!();
    let Some(backend) = backend() else { return };
    let results = probe(0).unwrap();
    let names: Vec<_> = results.iter().map(|result| result.what).collect();
    assert_eq!(names, ["dma_buf_attribute", "dma_buf_mmap", "dma_buf_mmap_pcie", "gdrdrv"]);
    results.iter().for_each(|result| println!("{result:?}"));
    let device = backend.device();
    let [attribute, maps @ .., gdrdrv] = &results[..] else { panic!("{results:?}") };
    assert_eq!(attribute.works, device.dma_buf);
    assert!(
        attribute.outcome.contains(&format!("reports {} for {}", device.dma_buf, device.name)),
        "{attribute:?}"
    );
    assert!(
        gdrdrv.works == Path::new("/dev/gdrdrv").exists() || gdrdrv.outcome.contains("denied"),
        "{gdrdrv:?}"
    );
    for map in maps {
        // A mapping that works has been read back; any other says at which step it failed.
        let steps = [
            "the device reads what the host wrote",
            "dma-buf",
            "where the host wrote",
            "reading device memory back",
        ];
        let step = steps.iter().position(|step| map.outcome.contains(step));
        assert!(if map.works { step == Some(0) } else { step > Some(0) }, "{map:?}");
        // The fake driver has no dma-bufs, although its attribute says so.
        assert!(fake_driver::folder().is_none() || map.outcome.contains("asking for a dma-buf"), "{map:?}");
    }
}

#[test]
fn all_tests_pass_on_the_fake_driver() {
    fake_driver::run_all_tests(&[]);
}
