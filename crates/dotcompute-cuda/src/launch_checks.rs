//! Checks of a launch that hold for every device.

use dotcompute_core::backend::device_port::{DeviceProgram, Shape};
use dotcompute_core::message::record::RecordLayout;

/// Threads of a block on every supported GPU.
const MAX_THREADS_PER_BLOCK: u32 = 1024;
/// Largest alignment of a ring kernel's state, in bytes.
const MAX_STATE_ALIGN: usize = 128;

/// Returns what is wrong with a program, before any resource is allocated for it.
pub(crate) fn check(program: &DeviceProgram) -> Result<(), String> {
    let threads = program.shape.threads();
    if threads == 0 || threads > MAX_THREADS_PER_BLOCK {
        return Err(format!("it has {threads} threads per block; use 1 to {MAX_THREADS_PER_BLOCK}"));
    }
    if program.shape.blocks() == 0 {
        return Err(String::from("it has 0 blocks; use at least 1"));
    }
    if let Shape::Thread { threads } = program.shape
        && program.queue_capacity < threads as usize
    {
        return Err(format!(
            "its queue has {} slots, but its threads take {threads} messages at once; use a queue capacity of at least {threads}",
            program.queue_capacity
        ));
    }
    if !program.state.align.is_power_of_two() || program.state.align > MAX_STATE_ALIGN {
        let align = program.state.align;
        return Err(format!(
            "its state has an alignment of {align}; use a power of two up to {MAX_STATE_ALIGN}"
        ));
    }
    let messages = [&program.input, &program.output];
    let records = messages.into_iter().chain(&program.state.layout).chain(&*program.records);
    if let Some(name) = RecordLayout::ambiguous_name(records) {
        return Err(format!(
            "two of its records are called `{name}` and have different fields, which device code cannot tell apart; rename one of them"
        ));
    }
    let is_identifier_char = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if program.entry.is_empty() || !program.entry.chars().all(is_identifier_char) {
        return Err(format!("`{}` is not a valid function name", program.entry));
    }
    Ok(())
}

/// Checks that a state is overwritten with as many bytes as it has.
pub(crate) fn same_size(expected: usize, given: usize) -> Result<(), String> {
    if expected == given {
        Ok(())
    } else {
        Err(format!("its state has {expected} bytes, got {given}; write exactly {expected}"))
    }
}
