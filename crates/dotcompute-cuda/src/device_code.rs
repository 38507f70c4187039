//! The device code of the framework, and the source text of a ring kernel.
//!
//! The files in `device/` are plain CUDA C++ and readable on their own; start with `ring_kernel.cuh`.

use std::borrow::Cow;
use std::fmt::Write as _;

use dotcompute_core::backend::device_port::{DeviceCode, DeviceProgram, Shape};

use crate::Architecture;
use crate::compile::{Input, LtoIr, Source};

/// The framework's headers: the name used in `#include`, and the text.
pub const HEADERS: [(&str, &str); 10] = [
    ("atomics.cuh", include_str!("../device/atomics.cuh")),
    ("emulated.cuh", include_str!("../device/emulated.cuh")),
    ("stretched.cuh", include_str!("../device/stretched.cuh")),
    ("protocol.cuh", include_str!("../device/protocol.cuh")),
    ("ring.cuh", include_str!("../device/ring.cuh")),
    ("links.cuh", include_str!("../device/links.cuh")),
    ("context.cuh", include_str!("../device/context.cuh")),
    ("leader.cuh", include_str!("../device/leader.cuh")),
    ("rust.cuh", include_str!("../device/rust.cuh")),
    ("ring_kernel.cuh", include_str!("../device/ring_kernel.cuh")),
];

/// The name of the kernel in the compiled module.
pub const KERNEL: &str = "dc_ring_kernel";

/// Returns the input from which the GPU compiler builds a ring kernel. Compile errors refer to it as `name`.
///
/// Returns `None` if this version does not support the kind of its code.
pub fn compile_input(name: &str, program: &DeviceProgram, architecture: Architecture) -> Option<Input> {
    let (file, text) = text_of(&program.code)?;
    let input = Input::new(name, architecture).option("-default-device").fast_math(program.fast_math);
    let input = HEADERS.iter().fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
    let input = sources(program, file, text).into_iter().fold(input, Input::source);
    Some(match &program.code {
        DeviceCode::Linked { part, lto_ir, .. } => input.lto_part(LtoIr::new(part.clone(), lto_ir.clone())),
        _ => input,
    })
}

type Text = Cow<'static, str>;

/// Returns the file name and the text of a handler.
fn text_of(code: &DeviceCode) -> Option<(&Text, &Text)> {
    match code {
        DeviceCode::CudaCpp { file, text } | DeviceCode::Linked { file, text, .. } => Some((file, text)),
        _ => None,
    }
}

/// Returns the source texts of a ring kernel for the host compiler, which cannot link parts that were compiled for GPUs.
///
/// Returns `None` unless the code consists of text only.
pub(crate) fn host_sources(program: &DeviceProgram) -> Option<Vec<Source>> {
    let DeviceCode::CudaCpp { file, text } = &program.code else { return None };
    Some(sources(program, file, text))
}

/// Returns the source texts of a ring kernel in order: the framework and the structs of the messages, the user's text, the kernel.
fn sources(program: &DeviceProgram, file: &Text, text: &Text) -> Vec<Source> {
    let mut before = String::from("#include \"ring_kernel.cuh\"\n");
    for layout in [Some(program.input), Some(program.output), program.state.layout].into_iter().flatten() {
        before.push_str(&layout.c_struct());
    }
    // Writing to a `String` does not fail.
    let _ = writeln!(before, "typedef dc::Context<{}> Ctx;", program.output.name);
    vec![
        Source::new("dotcompute/messages.cuh", before),
        Source::new(file.clone(), text.clone()),
        Source::new("dotcompute/kernel.cu", kernel(program)),
    ]
}

/// Returns the line that defines the kernel. The state's type is the record's, or a type `State` that the user's text defines.
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

#[cfg(test)]
mod tests {
    use dotcompute_core::device::DeviceKernel;
    use dotcompute_core::message::record::RecordLayout;

    use super::*;

    #[test]
    fn a_linked_part_goes_to_the_linker_and_to_no_other_compiler() {
        let request = RecordLayout::opaque("Request", 12, 4).unwrap();
        let reply = RecordLayout::opaque("Reply", 8, 8).unwrap();
        let text = "extern \"C\" __device__ int32_t handle(Ctx *, void *, const Request *, Reply *);";
        let linked = DeviceCode::Linked {
            file: "handler.cu".into(),
            text: text.into(),
            part: "the compiled handler".into(),
            lto_ir: vec![1, 2, 3],
        };
        let kernel = DeviceKernel::with_layouts(linked, request, reply);
        let architecture = Architecture { major: 9, minor: 0 };
        let input = compile_input("python", kernel.program(), architecture).unwrap();
        let whole = DeviceCode::CudaCpp { file: "handler.cu".into(), text: text.into() };
        let whole = DeviceKernel::with_layouts(whole, request, reply);
        let without = compile_input("python", whole.program(), architecture).unwrap();
        assert_eq!(input, without.clone().lto_part(LtoIr::new("the compiled handler", vec![1, 2, 3])));
        assert_ne!(input, without);
        assert!(host_sources(kernel.program()).is_none());
        assert_eq!(host_sources(whole.program()).unwrap().len(), 3);
    }
}
