//! The ring kernel's device code through the real compiler and linker: every shape, for every architecture, and its accesses to memory
//! that the host shares. Without the compiler the tests are skipped: see `common::toolchain`.

mod common;
mod ptx;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use common::{ARCHITECTURES, toolchain};
use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Resident};
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::message::Message;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_cuda::Architecture;
use dotcompute_cuda::compile::Input;
use dotcompute_cuda::device_code::{KERNEL, compile_input};
use ptx::{Access, Location, Root, Table};

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Sample {
    value: f64,
    weight: f32,
    series: u32,
}

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Mean {
    sum: f64,
    count: u64,
}

const SHAPES: [Shape; 4] = [
    Shape::Thread { threads: 1 },
    Shape::Thread { threads: 128 },
    Shape::Block { threads: 32 },
    Shape::Grid { blocks: 4, threads: 64 },
];

/// Handlers with every kind of result, with a state of their own type, and an empty one.
const HANDLERS: &str = r#"
struct State { double last; unsigned seen[16]; };

static float halved(float x) { return x / 2; }

extern "C" __device__ int32_t mean(Ctx *ctx, Mean *state, const Sample *sample, Mean *reply) {
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    if (sample->weight < 0) return 22;
    state->sum += sample->value * halved(sample->weight);
    state->count += 1;
    *reply = *state;
    if (ctx->wants_reply) ctx->reply(reply);
    else if (ctx->priority > 200) ctx->send(*reply);
    return 0;
}

extern "C" __device__ int32_t last(Ctx *ctx, State *state, const Sample *sample, Mean *reply) {
    state->last = sample->value;
    state->seen[ctx->thread % 16] += 1;
    reply->sum = state->last;
    if (ctx->wants_reply) ctx->reply(reply);
    else ctx->send(reply);
    return 0;
}

extern "C" __device__ int32_t nothing(Ctx *ctx, void *state, const Sample *sample, Mean *reply) { return 0; }
"#;

/// The handlers as ring kernels of a shape.
fn kernels(shape: Shape) -> [(&'static str, DeviceProgram); 3] {
    let kernel =
        |entry| DeviceKernel::cuda_cpp("mean.cu", HANDLERS).entry(entry).shape(shape).queue_capacity(128);
    [
        ("mean", program(kernel("mean").state(Mean { sum: 0.0, count: 0 }))),
        ("last", program(kernel("last").state_bytes(vec![0; 72], 8))),
        ("nothing", program(kernel("nothing"))),
    ]
}

/// A backend that stores the program of a launch plan and launches nothing.
#[derive(Default)]
struct PlanRecorder(Mutex<Option<DeviceProgram>>);

impl Backend for PlanRecorder {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        if let Program::Device(program) = plan.program {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(*program);
        }
        Err(BackendError::Unsupported {
            backend: BackendKind::Cuda,
            problem: String::from("the program is only recorded"),
        })
    }
}

/// The program that a backend receives for a ring kernel.
fn program(kernel: DeviceKernel<Sample, Mean>) -> DeviceProgram {
    let recorder = Arc::new(PlanRecorder::default());
    let runtime = Runtime::with_options(RuntimeOptions::new().device(recorder.clone())).unwrap();
    assert!(runtime.launch_on_device("recorded", KernelOptions::new(), kernel).is_err());
    recorder.0.lock().unwrap().take().expect("a program")
}

fn input(program: &DeviceProgram, architecture: Architecture) -> Input {
    compile_input("mean", program, architecture).expect("it is text")
}

#[test]
fn every_shape_compiles_for_every_architecture_without_warnings_spills_or_calls() {
    let Some(toolchain) = toolchain() else { return };
    let toolchains = [("linked", toolchain.clone()), ("unlinked", toolchain.without_linker())];
    for shape in SHAPES {
        for (entry, program) in kernels(shape) {
            for architecture in ARCHITECTURES {
                for (linking, toolchain) in &toolchains {
                    let title = format!("{architecture} {linking} {entry} {shape:?}");
                    let kernel = toolchain.compile(&input(&program, architecture)).unwrap();
                    assert_eq!(kernel.diagnostics(), [], "{title}: {}", kernel.log);
                    // The kernel is the only function: the handler is inlined.
                    let [resource_usage] = &kernel.resource_usage()[..] else {
                        panic!("{title}: {}", kernel.log)
                    };
                    assert_eq!(resource_usage.function, KERNEL, "{title}");
                    println!(
                        "{title}: {:?} registers, {} bytes shared",
                        resource_usage.registers, resource_usage.shared
                    );
                    assert_eq!((resource_usage.spill_stores, resource_usage.spill_loads), (0, 0), "{title}");
                    assert_eq!(resource_usage.stack, 0, "{title}: small messages stay in registers");
                    assert!(
                        resource_usage.registers.is_some_and(|registers| registers <= 64),
                        "{title}: {resource_usage:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_error_has_the_users_own_line_in_every_shape() {
    let Some(toolchain) = toolchain() else { return };
    let text = "\nextern \"C\" __device__ int32_t handle(Ctx *, void *, const Sample *sample, Mean *) {\n\
                \x20   return sample->vlaue;\n}\n";
    for toolchain in [toolchain.clone(), toolchain.without_linker()] {
        for shape in SHAPES {
            let program =
                program(DeviceKernel::cuda_cpp("src/typo.cu", text).shape(shape).queue_capacity(128));
            let error = toolchain.compile(&input(&program, ARCHITECTURES[1])).unwrap_err();
            let [diagnostic] = error.diagnostics() else { panic!("one error: {error}") };
            assert_eq!(diagnostic.location, Some(("src/typo.cu".into(), 3)), "{error}");
            assert!(diagnostic.message.contains("vlaue"), "{error}");
        }
    }
}

/// Parameters of the kernel by their offset in `Launch` of `protocol.cuh`: the rings, the control block, and all pointers.
const INPUT: Root = Root::Parameter(0);
const EVENTS: Root = Root::Parameter(24);
const CONTROL: Root = Root::Parameter(48);
const POINTERS: [u64; 6] = [0, 24, 48, 56, 64, 72];

/// In the control block: the numbers of links, and the pointers to their rings, which are in device memory.
const LINK_COUNTS: Range<i64> = 512..528;
const LINKS: Table = Table { root: CONTROL, offsets: 528..912, stride: 24 };
/// Accesses to link rings. A thread that takes a message reads its sequence tag at system scope, whichever ring it is in: that scope
/// includes the device's.
const LINKED: [&str; 6] = ["ld", "st", "ld.acquire.gpu", "st.release.gpu", "atom", "ld.relaxed.sys"];

/// Memory shared with the host: the root, the offsets, whether they index an array, and the accesses allowed to the device.
///
/// Words that the host writes are polled with relaxed loads; a fence follows the load that found something. Words that the host reads are
/// stored with release if they publish other data. A weak load is of a word that only the device writes, before its first poll.
const SHARED: [(Root, Range<i64>, bool, &[&str]); 19] = [
    // The sequence tag of a message slot.
    (INPUT, 512..513, true, &["ld.relaxed.sys"]),
    // Messages handled.
    (INPUT, 256..257, false, &["ld", "st.release.sys"]),
    // The sequence tag of an event slot, and the number of events that the host has read.
    (EVENTS, 512..513, true, &["st.release.sys"]),
    (EVENTS, 256..257, false, &["ld.relaxed.sys"]),
    // The command, and the acknowledged faults.
    (CONTROL, 0..1, false, &["ld.relaxed.sys"]),
    (CONTROL, 4..5, false, &["ld.relaxed.sys"]),
    // State, faults, closed links: the line that the host polls.
    (CONTROL, 128..129, false, &["ld", "ld.relaxed.sys", "st.release.sys"]),
    (CONTROL, 132..133, false, &["ld", "st.release.sys"]),
    (CONTROL, 136..137, false, &["st.release.sys"]),
    // The heartbeat, the time in handlers, the next event, the current message, the failed messages of links.
    (CONTROL, 256..257, false, &["st.relaxed.sys"]),
    (CONTROL, 264..265, false, &["ld", "st.relaxed.sys"]),
    (CONTROL, 272..273, false, &["ld", "st.relaxed.sys"]),
    (CONTROL, 280..281, false, &["st.relaxed.sys"]),
    (CONTROL, 288..289, false, &["ld", "st.relaxed.sys"]),
    // Messages sent and handled over each link; the links' pointers.
    (CONTROL, 384..448, true, &["st.relaxed.sys", "st.release.sys"]),
    (CONTROL, 448..512, true, &["st.release.sys"]),
    // The word that kills the grid.
    (CONTROL, 1024..1025, false, &["ld.relaxed.sys"]),
    (CONTROL, LINK_COUNTS, false, &["ld"]),
    (CONTROL, LINKS.offsets, true, &["ld"]),
];

/// Whether the device may make this access. The payload of a slot is accessed between the accesses to its sequence tag.
fn is_allowed(access: &Access) -> bool {
    let Access { instruction, locations } = access;
    let allowed = |location: &Location| match location.root {
        INPUT | EVENTS if location.varies && location.offset >= 520 => {
            instruction == if location.root == INPUT { "ld" } else { "st" }
        }
        INPUT | EVENTS | CONTROL => SHARED.iter().any(|(root, offsets, varies, instructions)| {
            // A vector load has the offset of its first word.
            *root == location.root
                && offsets.contains(&location.offset)
                && (*varies || !location.varies)
                && instructions.contains(&instruction.as_str())
        }),
        Root::Table => LINKED.contains(&instruction.as_str()),
        // Device memory: system scope would cost time and give nothing.
        Root::Parameter(_) | Root::Variable => !instruction.ends_with(".sys"),
    };
    !locations.is_empty() && locations.iter().all(allowed)
}

/// Accesses in a kernel's text that are not allowed, and required ones that are missing.
fn violations(text: &str, shape: Shape, sends: bool) -> Vec<String> {
    let accesses = ptx::accesses(text, &POINTERS, LINKS);
    let mut violations: Vec<String> =
        accesses.iter().filter(|access| !is_allowed(access)).map(ToString::to_string).collect();
    let at = |root, offsets: &Range<i64>, instruction: &str| {
        let is_at = |location: &Location| location.root == root && offsets.contains(&location.offset);
        let found = |one: &&Access| one.instruction == instruction && one.locations.iter().any(is_at);
        accesses.iter().filter(found).count()
    };
    for (root, offsets, _, instructions) in SHARED {
        // For a handler that never sends and never fails, the compiler removes the code that would.
        let fails_or_sends = root == EVENTS || (root == CONTROL && [288, 384].contains(&offsets.start));
        if fails_or_sends && !sends {
            continue;
        }
        violations.extend(
            instructions
                .iter()
                .filter(|instruction| at(root, &offsets, instruction) == 0 && **instruction != "ld")
                .map(|instruction| format!("no {instruction} at {root:?}+{offsets:?}")),
        );
    }
    let linked: &[&str] =
        if sends { &["ld.acquire.gpu", "st.release.gpu", "atom"] } else { &["ld.acquire.gpu"] };
    let missing = |instruction: &&&str| at(Root::Table, &(0..i64::MAX), instruction) == 0;
    violations.extend(linked.iter().filter(missing).map(|instruction| format!("no {instruction} in links")));
    // A fence follows each load that found something: acknowledged faults, the command, the message (in each thread that takes its own),
    // a free event slot.
    let takers = if matches!(shape, Shape::Thread { .. }) { 2 } else { 1 };
    let required = 2 + takers + at(EVENTS, &(256..257), "ld.relaxed.sys");
    let fences = text.matches("fence.acq_rel.sys;").count();
    if fences < required {
        violations.push(format!("{fences} fences, expected at least {required}"));
    }
    if text.contains("call") || text.contains(".func") {
        violations.push(String::from("a call of a function"));
    }
    violations
}

#[test]
fn host_visible_words_are_accessed_at_system_scope_and_in_order() {
    let Some(toolchain) = toolchain() else { return };
    for architecture in ARCHITECTURES {
        for shape in SHAPES {
            for (entry, program) in kernels(shape) {
                let text = toolchain.ptx(&input(&program, architecture)).unwrap();
                let violations = violations(&text, shape, entry != "nothing");
                assert!(violations.is_empty(), "{architecture} {entry} {shape:?}: {violations:#?}");
            }
        }
    }
}

#[test]
fn a_wrong_scope_or_order_is_detected() {
    let Some(toolchain) = toolchain() else { return };
    let shape = SHAPES[2];
    let (_, program) = &kernels(shape)[0];
    let text = toolchain.ptx(&input(program, ARCHITECTURES[1])).unwrap();
    let changes = [
        ("ld.relaxed.sys.u64", "ld.relaxed.gpu.u64"),
        ("ld.relaxed.sys.u32", "ld.u32"),
        ("st.release.sys.u64", "st.relaxed.sys.u64"),
        ("st.release.sys.u32", "st.release.cta.u32"),
        ("st.relaxed.sys.u64", "st.volatile.u64"),
        ("fence.acq_rel.sys", "fence.acq_rel.gpu"),
        ("ld.acquire.gpu.u64", "ld.relaxed.gpu.u64"),
        ("st.release.gpu.u64", "st.relaxed.gpu.u64"),
    ];
    let found: BTreeSet<&str> = changes
        .into_iter()
        .filter(|(right, wrong)| !violations(&text.replace(right, wrong), shape, true).is_empty())
        .map(|(right, _)| right)
        .collect();
    assert_eq!(found.len(), changes.len(), "{found:?}");
}
