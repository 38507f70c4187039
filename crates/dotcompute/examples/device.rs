//! A ring kernel on a device: a histogram whose state stays in device memory.
//!
//! `DOTCOMPUTE_DEVICE` selects the device: `cuda`, or `emulated`, which runs the same device code on CPU threads. Without a GPU this example
//! uses the emulated device. Run with `cargo run --example device`.

use std::time::Duration;

use dotcompute::cuda::device_selection;
use dotcompute::prelude::*;

/// A batch of readings. Records have a fixed size.
#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Readings {
    values: [f32; 32],
}

/// Number of readings in each tenth of the range 0 to 1.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Histogram {
    counts: [u32; 10],
    readings: u32,
}

/// The device handler. A block of 32 threads handles a message, one reading per thread. `Readings` and `Histogram` are the structs above.
const HANDLER: &str = r#"
extern "C" __device__ int32_t handle(Ctx *ctx, Histogram *state, const Readings *batch, Histogram *reply) {
    for (float value : batch->values) {
        // All threads return the same error code. The caller gets an error, and the message becomes a dead letter.
        if (!(value >= 0.0f && value < 1.0f)) return 22;
    }
    float value = batch->values[ctx->thread];
    dc::count_one(&state->counts[static_cast<int>(value * 10.0f)]);
    dc::count_one(&state->readings);
    ctx->sync();
    if (ctx->thread == 0 && ctx->wants_reply) {
        *reply = *state;
        ctx->reply(reply);
    }
    return 0;
}
"#;

fn batch(seed: u32) -> Readings {
    let value = |index: u32| (seed * 32 + index).wrapping_mul(2_654_435_761) as f32 / 4_294_967_296.0;
    Readings { values: std::array::from_fn(|index| value(index as u32).min(0.999)) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut selected = device_selection::from_environment()?;
    if selected.device.is_none() {
        println!("{}: {}", selected.kind, selected.reason);
        selected = device_selection::by_name("emulated")?;
    }
    println!("device: {} ({})", selected.kind, selected.reason);
    let options = selected.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
    let runtime = Runtime::with_options(options)?;

    let empty = Histogram { counts: [0; 10], readings: 0 };
    let kernel = DeviceKernel::<Readings, Histogram>::cuda_cpp("histogram.cu", HANDLER).state(empty);
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let histogram =
        runtime.launch_on_device("histogram", options, kernel.shape(Shape::Block { threads: 32 }))?;
    histogram.activate()?;

    for seed in 0..999 {
        histogram.tell(batch(seed))?;
    }
    let reply = histogram.ask(batch(999))?;
    println!("{} readings: {:?}", reply.readings, reply.counts);
    assert_eq!((reply.readings, reply.counts.iter().sum::<u32>()), (32_000, 32_000));

    // An error of a device handler reaches the caller, as on the CPU.
    let mut broken = batch(0);
    broken.values[7] = f32::NAN;
    println!(
        "a reading that is not a number: {}",
        histogram.ask(broken).expect_err("the handler returns an error")
    );

    // The state can be saved and restored between two messages.
    let saved: Histogram = histogram.checkpoint(Duration::from_secs(5))?;
    histogram.restore(&empty, Duration::from_secs(5))?;
    assert_eq!(histogram.ask(batch(0))?.readings, 32);
    println!("saved the state after {} readings, and restored an empty one", saved.readings);
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
