//! A ring kernel on a device: a running histogram that is asked for while others keep telling it.
//!
//! `DOTCOMPUTE_DEVICE` chooses the device: `cuda`, or `emulated`, which runs the same code on threads (and is taken here where the
//! machine has no GPU). Run with `cargo run --example device`.

use std::time::Duration;

use dotcompute::cuda::device_selection;
use dotcompute::prelude::*;

/// A batch of readings; fixed size, as devices need it.
#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Readings {
    values: [f32; 32],
}

/// How many readings fell into each tenth between 0 and 1.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Histogram {
    counts: [u32; 10],
    readings: u32,
}

/// Each of 32 threads takes one reading; the state stays on the device. `Readings` and `Histogram` are the structs above.
const HANDLER: &str = r#"
extern "C" __device__ int32_t handle(Ctx *ctx, Histogram *state, const Readings *batch, Histogram *answer) {
    for (float value : batch->values) {
        // All threads come to the same verdict. It becomes an error of the asker, and a dead letter.
        if (!(value >= 0.0f && value < 1.0f)) return 22;
    }
    float value = batch->values[ctx->thread];
    dc::count_one(&state->counts[static_cast<int>(value * 10.0f)]);
    dc::count_one(&state->readings);
    ctx->sync();
    if (ctx->thread == 0 && ctx->wants_reply) {
        *answer = *state;
        ctx->reply(answer);
    }
    return 0;
}
"#;

fn batch(seed: u32) -> Readings {
    let value = |index: u32| (seed * 32 + index).wrapping_mul(2_654_435_761) as f32 / 4_294_967_296.0;
    Readings { values: std::array::from_fn(|index| value(index as u32).min(0.999)) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut chosen = device_selection::from_environment()?;
    if chosen.device.is_none() {
        println!("{}: {}", chosen.kind, chosen.reason);
        chosen = device_selection::by_name("emulated")?;
    }
    println!("device: {} ({})", chosen.kind, chosen.reason);
    let options = chosen.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
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
    let answer = histogram.ask(batch(999))?;
    println!("{} readings: {:?}", answer.readings, answer.counts);
    assert_eq!((answer.readings, answer.counts.iter().sum::<u32>()), (32_000, 32_000));

    // An error in a device function reaches the asker like any other.
    let mut broken = batch(0);
    broken.values[7] = f32::NAN;
    println!("asking with a NaN: {}", histogram.ask(broken).expect_err("it is no reading"));

    // The state can be read, and put back, between two messages.
    let saved: Histogram = histogram.checkpoint(Duration::from_secs(5))?;
    histogram.restore(&empty, Duration::from_secs(5))?;
    assert_eq!(histogram.ask(batch(0))?.readings, 32);
    println!("saved after {} readings, then begun anew", saved.readings);
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
