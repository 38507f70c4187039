//! Handlers that never return, on the emulated device.

use std::time::Duration;

use dotcompute_conformance::{Number, TIMEOUT, number, watchdog};
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::LaunchError;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_cuda::emulated::{EmulatedBackend, EmulatedOptions};

/// A runtime on a device with space for one ring kernel of `blocks` blocks, which is lost soon after its handler hangs.
fn runtime(blocks: u32) -> Runtime {
    let mut options = EmulatedOptions::default();
    options.blocks = blocks;
    options.heartbeat_timeout = Duration::from_millis(100);
    let device = EmulatedBackend::with_options(options).unwrap();
    Runtime::with_options(RuntimeOptions::new().workers(2).device(device)).unwrap()
}

/// A ring kernel that runs `text` for 13, forever.
fn hangs(
    runtime: &Runtime,
    name: &str,
    text: &str,
    shape: Shape,
) -> Result<KernelHandle<Number, Number>, LaunchError> {
    let text = format!(
        "#include <unistd.h>\n\
         extern \"C\" __device__ int32_t handle(Ctx *ctx, void *, const Number *message, Number *reply) {{\n\
         volatile unsigned long long value = message->value;\n\
         while (value == 13) {{ {text}; }}\n\
         if (ctx->thread == 0 && ctx->block == 0) ctx->reply(reply);\n\
         return 0;\n}}\n"
    );
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("hangs.cu", text).shape(shape);
    let kernel = runtime.launch_on_device(name, KernelOptions::new(), kernel)?;
    kernel.activate().unwrap();
    Ok(kernel)
}

#[test]
fn a_hung_handler_is_ended_and_its_blocks_are_free_again() {
    watchdog!();
    for (text, shape) in [
        ("dc::pause_ns(2000)", Shape::Block { threads: 1 }),
        ("if (ctx->thread) ctx->sync(); else dc::time_ns()", Shape::Block { threads: 2 }),
        ("if (ctx->block) ctx->sync(); else dc::pause_ns(2000)", Shape::Grid { blocks: 2, threads: 2 }),
    ] {
        let runtime = runtime(shape.blocks());
        let hung = hangs(&runtime, "hung", text, shape).unwrap();
        hung.ask(number(1)).unwrap();
        assert!(hung.ask(number(13)).unwrap_err().to_string().contains("no heartbeat for"));
        assert_eq!(hung.wait_ended(TIMEOUT), State::Failed);
        // Its threads leave soon after.
        let next = loop {
            match hangs(&runtime, "next", text, shape) {
                Ok(next) => break next,
                Err(error) => assert!(error.to_string().contains("are free"), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        next.ask(number(2)).unwrap();
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn a_launch_that_a_hung_handler_leaves_no_blocks_names_it() {
    watchdog!();
    // It calls no function of the device, so nothing can end it.
    let shape = Shape::Block { threads: 1 };
    let runtime = runtime(1);
    let hung = hangs(&runtime, "hung", "usleep(1000)", shape).unwrap();
    hung.ask(number(13)).unwrap_err();
    assert_eq!(hung.wait_ended(TIMEOUT), State::Failed);
    let error = hangs(&runtime, "next", "", shape).unwrap_err().to_string();
    assert!(error.contains("the handler of hung does not return, and keeps its blocks"), "{error}");
}
