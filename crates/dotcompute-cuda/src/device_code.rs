//! The device code of the framework, and the text that a ring kernel is compiled from.
//!
//! The files in `device/` are plain CUDA C++ and can be read on their own; begin with `ring_kernel.cuh`.

use std::fmt::Write as _;

use dotcompute_core::backend::device::{DeviceCode, DeviceProgram, Shape};

use crate::Architecture;
use crate::compile::{Input, Source};

/// The framework's headers, by the names they include each other by.
pub const HEADERS: [(&str, &str); 8] = [
    ("access.cuh", include_str!("../device/access.cuh")),
    ("emulated.cuh", include_str!("../device/emulated.cuh")),
    ("protocol.cuh", include_str!("../device/protocol.cuh")),
    ("ring.cuh", include_str!("../device/ring.cuh")),
    ("links.cuh", include_str!("../device/links.cuh")),
    ("context.cuh", include_str!("../device/context.cuh")),
    ("leader.cuh", include_str!("../device/leader.cuh")),
    ("ring_kernel.cuh", include_str!("../device/ring_kernel.cuh")),
];

/// The name of the kernel that comes out.
pub const KERNEL: &str = "dc_ring_kernel";

/// Everything that the GPU's compiler makes a ring kernel from. `name` is what errors call it.
///
/// None if its code is of a kind that is no text.
pub fn compile_input(name: &str, program: &DeviceProgram, architecture: Architecture) -> Option<Input> {
    let input = Input::new(name, architecture).option("-default-device");
    let input = HEADERS.iter().fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
    Some(sources(program)?.into_iter().fold(input, Input::source))
}

/// The texts of a ring kernel, in order: the framework and the messages' structs, the user's text, the loop.
///
/// None if its code is of a kind that is no text.
pub(crate) fn sources(program: &DeviceProgram) -> Option<Vec<Source>> {
    let DeviceCode::CudaCpp { file, text } = &program.code else { return None };
    let mut before = String::from("#include \"ring_kernel.cuh\"\n");
    for layout in [Some(program.input), Some(program.output), program.state.layout].into_iter().flatten() {
        before.push_str(&layout.c_struct());
    }
    // Writing to a `String` cannot fail.
    let _ = writeln!(before, "typedef dc::Context<{}> Ctx;", program.output.name);
    Some(vec![
        Source::new("dotcompute/messages.cuh", before),
        Source::new(file.clone(), text.clone()),
        Source::new("dotcompute/kernel.cu", kernel(program)),
    ])
}

/// The line that makes the kernel. The state's type is the record's, or one called `State` that the user's text defines.
fn kernel(program: &DeviceProgram) -> String {
    let shape = match program.shape {
        Shape::Thread { .. } => "ThreadShape",
        Shape::Block { .. } => "BlockShape",
        Shape::Grid { .. } => "GridShape",
    };
    let state = match program.state.layout {
        Some(layout) => layout.name,
        None if program.state.size == 0 => "void",
        None => "State",
    };
    let (input, output, entry) = (program.input.name, program.output.name, &program.entry);
    format!("DC_RING_KERNEL({shape}, {input}, {output}, {state}, {entry})\n")
}
