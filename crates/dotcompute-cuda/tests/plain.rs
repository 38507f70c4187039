//! What ring kernels are compared with, on a GPU: a bare flag, launches and graphs. Where there is none, on a driver that pretends
//! (`fake/libcuda.c`), which runs the same text on threads.

mod common;
mod pretend;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute_cuda::cuda::CudaBackend;
use dotcompute_cuda::cuda::baseline::{
    BYTES, FlagPingPong, KernelSource, LaunchMethod, PerMessageLaunch, probe,
};

/// The kernels of the benchmark.
const PLAIN: &str = include_str!("../../dotcompute-bench/device/baseline.cu");

const PATIENCE: Duration = Duration::from_secs(20);

fn backend() -> Option<Arc<CudaBackend>> {
    pretend::backend(|_| {})
}

fn text(entry: &'static str) -> KernelSource {
    let Some(folder) = pretend::folder() else {
        return KernelSource { file: "baseline.cu", text: PLAIN, entry };
    };
    let text = pretend::marked(PLAIN, &pretend::host_library(&folder, PLAIN));
    KernelSource { file: "baseline.cu", text: text.leak(), entry }
}

#[test]
fn a_flag_comes_back_and_its_kernel_ends_with_it() {
    let Some(backend) = backend() else { return };
    // The second is loaded when the first has gone: else it would wait for ever.
    for _ in 0..2 {
        let flag = FlagPingPong::new(&backend, text("flag")).unwrap();
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
    for way in [LaunchMethod::Mapped, LaunchMethod::Copied, LaunchMethod::Graph] {
        let mut launches = PerMessageLaunch::new(&backend, way, text("answer")).unwrap();
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
        KernelSource { file: "broken.cu", text: "extern \"C\" __global__ void f() { nothing; }", entry: "f" };
    let refused = FlagPingPong::new(&backend, broken).err().unwrap().to_string();
    assert!(refused.contains("broken.cu") && refused.contains("nothing"), "{refused}");
    let missing = KernelSource { entry: "missing", ..text("flag") };
    let refused = PerMessageLaunch::new(&backend, LaunchMethod::Mapped, missing).err().unwrap().to_string();
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn every_way_to_map_device_memory_has_an_outcome() {
    if backend().is_none() {
        return;
    }
    let results = probe(0).unwrap();
    let names: Vec<_> = results.iter().map(|result| result.what).collect();
    assert_eq!(names, ["dma_buf_attribute", "dma_buf_mmap", "dma_buf_mmap_pcie", "gdrdrv"]);
    for result in &results {
        println!("{result:?}");
        assert!(!result.outcome.is_empty());
        let refuses = pretend::folder().is_some() && result.what.starts_with("dma_buf_mmap");
        assert!(!refuses || result.outcome.contains("asking for a dma-buf"), "{result:?}");
    }
}

#[test]
fn on_a_driver_that_pretends() {
    let tests = [
        "a_flag_comes_back_and_its_kernel_ends_with_it",
        "a_message_is_answered_in_every_way",
        "what_does_not_compile_or_is_not_there_is_told",
        "every_way_to_map_device_memory_has_an_outcome",
    ];
    pretend::run(&tests, &[]);
}
