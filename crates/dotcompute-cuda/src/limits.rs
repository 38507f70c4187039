//! What a launch may ask for, on any device.

use dotcompute_core::backend::device_port::{DeviceProgram, Shape};

/// Threads of a block, on every GPU there is.
const THREADS: u32 = 1024;

/// What is wrong with a program, before anything is taken for it.
pub(crate) fn check(program: &DeviceProgram) -> Result<(), String> {
    let threads = program.shape.threads();
    if threads == 0 || threads > THREADS {
        return Err(format!("it asks for {threads} threads a block; give it 1 to {THREADS}"));
    }
    if program.shape.blocks() == 0 {
        return Err(String::from("it asks for no blocks; give it at least 1"));
    }
    if let Shape::Thread { threads } = program.shape
        && program.queue_capacity < threads as usize
    {
        return Err(format!(
            "its queue of {} messages is shorter than the {threads} that its threads take at once; make it at least that",
            program.queue_capacity
        ));
    }
    if !program.state.align.is_power_of_two() || program.state.align > 128 {
        let align = program.state.align;
        return Err(format!("its state is to be aligned to {align}; give a power of two up to 128"));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if program.entry.is_empty() || !program.entry.chars().all(is_name) {
        return Err(format!("`{}` cannot be the name of a function", program.entry));
    }
    Ok(())
}

/// That a state is overwritten by as many bytes as it has.
pub(crate) fn same_size(has: usize, given: usize) -> Result<(), String> {
    if has == given { Ok(()) } else { Err(format!("its state has {has} bytes, and {given} were given")) }
}
