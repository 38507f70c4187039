//! The ring kernel itself through the real compiler and linker: every shape, for every architecture, and what it does to the words that
//! the host sees. Without the compiler the tests say so and pass: see `common::toolchain`.

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
use ptx::{Access, Place, Root, Table};

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

/// Handlers with every way out, with a state of their own, and with nothing at all.
const HANDLERS: &str = r#"
struct State { double last; unsigned seen[16]; };

static float halved(float x) { return x / 2; }

extern "C" __device__ int32_t mean(Ctx *ctx, Mean *state, const Sample *sample, Mean *answer) {
    if (ctx->thread != 0 || ctx->block != 0) return 0;
    if (sample->weight < 0) return 22;
    state->sum += sample->value * halved(sample->weight);
    state->count += 1;
    *answer = *state;
    if (ctx->wants_reply) ctx->reply(answer);
    else if (ctx->priority > 200) ctx->send(*answer);
    return 0;
}

extern "C" __device__ int32_t last(Ctx *ctx, State *state, const Sample *sample, Mean *answer) {
    state->last = sample->value;
    state->seen[ctx->thread % 16] += 1;
    answer->sum = state->last;
    ctx->reply(answer);
    return 0;
}

extern "C" __device__ int32_t nothing(Ctx *ctx, void *state, const Sample *sample, Mean *answer) { return 0; }
"#;

/// The handlers, as ring kernels of a shape.
fn kernels(shape: Shape) -> [(&'static str, DeviceProgram); 3] {
    let kernel =
        |entry| DeviceKernel::cuda_cpp("mean.cu", HANDLERS).entry(entry).shape(shape).queue_capacity(128);
    [
        ("mean", program(kernel("mean").state(Mean { sum: 0.0, count: 0 }))),
        ("last", program(kernel("last").state_bytes(vec![0; 72], 8))),
        ("nothing", program(kernel("nothing"))),
    ]
}

/// A backend that keeps the program it is given, and launches nothing.
#[derive(Default)]
struct Keeper(Mutex<Option<DeviceProgram>>);

impl Backend for Keeper {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        if let Program::Device(program) = plan.program {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(*program);
        }
        Err(BackendError::Unsupported { backend: BackendKind::Cuda, problem: String::from("it was kept") })
    }
}

/// What a backend gets of a ring kernel.
fn program(kernel: DeviceKernel<Sample, Mean>) -> DeviceProgram {
    let keeper = Arc::new(Keeper::default());
    let runtime = Runtime::with_options(RuntimeOptions::new().device(keeper.clone())).unwrap();
    assert!(runtime.launch_on_device("kept", KernelOptions::new(), kernel).is_err());
    keeper.0.lock().unwrap().take().expect("a program")
}

fn input(program: &DeviceProgram, architecture: Architecture) -> Input {
    compile_input("mean", program, architecture).expect("it is text")
}

#[test]
fn every_shape_compiles_for_every_architecture_without_warnings_spills_or_calls() {
    let Some(toolchain) = toolchain() else { return };
    let toolchains = [("linked", toolchain.clone()), ("whole", toolchain.without_linker())];
    for shape in SHAPES {
        for (entry, program) in kernels(shape) {
            for architecture in ARCHITECTURES {
                for (how, toolchain) in &toolchains {
                    let title = format!("{architecture} {how} {entry} {shape:?}");
                    let kernel = toolchain.compile(&input(&program, architecture)).unwrap();
                    assert_eq!(kernel.diagnostics(), [], "{title}: {}", kernel.log);
                    // The kernel is the only function: the handler was inlined.
                    let [resource_usage] = &kernel.resource_usage()[..] else {
                        panic!("{title}: {}", kernel.log)
                    };
                    assert_eq!(resource_usage.function, KERNEL, "{title}");
                    println!(
                        "{title}: {:?} registers, {} bytes shared",
                        resource_usage.registers, resource_usage.shared
                    );
                    assert_eq!((resource_usage.spill_stores, resource_usage.spill_loads), (0, 0), "{title}");
                    assert_eq!(resource_usage.stack, 0, "{title}: messages this small stay in registers");
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
            assert_eq!(diagnostic.place, Some(("src/typo.cu".into(), 3)), "{error}");
            assert!(diagnostic.message.contains("vlaue"), "{error}");
        }
    }
}

/// Parameters of the kernel by their offset in `Launch`, as `protocol.cuh` has it: the rings, the control words, and all the pointers.
const INPUT: Root = Root::Parameter(0);
const EVENTS: Root = Root::Parameter(24);
const CONTROL: Root = Root::Parameter(48);
const POINTERS: [u64; 6] = [0, 24, 48, 56, 64, 72];

/// Where it says which links there are, where their rings are, and what the device may do in these: they are in its own memory.
const LINK_COUNTS: Range<i64> = 384..400;
const LINKS: Table = Table { root: CONTROL, offsets: 400..784, stride: 24 };
/// A thread that takes one of several messages looks at its word as the host's, whichever ring it is in: that scope holds the device's.
const LINKED: [&str; 6] = ["ld", "st", "ld.acquire.gpu", "st.release.gpu", "atom", "ld.relaxed.sys"];

/// What the host sees too: the memory, the offsets in it, whether that is one of many, and what the device may do there.
///
/// What the host writes is polled relaxed, with a fence behind what was found. What it reads comes after a release if something else is to
/// be seen with it. A weak load is of the device's own word, before its first turn.
const SHARED: [(Root, Range<i64>, bool, &[&str]); 18] = [
    // The word of a slot with a message.
    (INPUT, 512..513, true, &["ld.relaxed.sys"]),
    // Messages handled.
    (INPUT, 256..257, false, &["ld", "st.release.sys"]),
    // The word of a slot for an event, and how many events the host has taken.
    (EVENTS, 512..513, true, &["st.release.sys"]),
    (EVENTS, 256..257, false, &["ld.relaxed.sys"]),
    // The command, and the acknowledged faults.
    (CONTROL, 0..1, false, &["ld.relaxed.sys"]),
    (CONTROL, 4..5, false, &["ld.relaxed.sys"]),
    // State and faults.
    (CONTROL, 128..129, false, &["ld", "st.release.sys"]),
    (CONTROL, 132..133, false, &["ld", "st.release.sys"]),
    // The heartbeat, the time in handlers, the next event, the current message.
    (CONTROL, 136..137, false, &["st.relaxed.sys"]),
    (CONTROL, 144..145, false, &["ld", "st.relaxed.sys"]),
    (CONTROL, 152..153, false, &["ld", "st.relaxed.sys"]),
    (CONTROL, 160..161, false, &["st.relaxed.sys"]),
    // The links that are closed; of their messages, those that failed; what was sent and handled over each; and where they are.
    (CONTROL, 168..169, false, &["st.release.sys"]),
    (CONTROL, 176..177, false, &["ld", "st.relaxed.sys"]),
    (CONTROL, 256..320, true, &["st.relaxed.sys", "st.release.sys"]),
    (CONTROL, 320..384, true, &["st.release.sys"]),
    (CONTROL, LINK_COUNTS, false, &["ld"]),
    (CONTROL, LINKS.offsets, true, &["ld"]),
];

/// Whether the device may do this. The payload of a slot is read or written between the accesses to its word.
fn is_allowed(access: &Access) -> bool {
    let Access { instruction, places } = access;
    let allowed = |place: &Place| match place.root {
        INPUT | EVENTS if place.varies && place.offset >= 520 => {
            instruction == if place.root == INPUT { "ld" } else { "st" }
        }
        INPUT | EVENTS | CONTROL => SHARED.iter().any(|(root, offsets, varies, instructions)| {
            // Words that are loaded at once begin at the first.
            *root == place.root
                && offsets.contains(&place.offset)
                && (*varies || !place.varies)
                && instructions.contains(&instruction.as_str())
        }),
        Root::Table => LINKED.contains(&instruction.as_str()),
        // The device's own memory: the host's scope would be for nothing.
        Root::Parameter(_) | Root::Variable => !instruction.ends_with(".sys"),
    };
    !places.is_empty() && places.iter().all(allowed)
}

/// What a kernel's text does that it may not, or does not do that it must.
fn wrongs(text: &str, shape: Shape, sends: bool) -> Vec<String> {
    let accesses = ptx::accesses(text, &POINTERS, LINKS);
    let mut wrongs: Vec<String> =
        accesses.iter().filter(|access| !is_allowed(access)).map(ToString::to_string).collect();
    let at = |root, offsets: &Range<i64>, instruction: &str| {
        let there = |place: &Place| place.root == root && offsets.contains(&place.offset);
        let found = |one: &&Access| one.instruction == instruction && one.places.iter().any(there);
        accesses.iter().filter(found).count()
    };
    for (root, offsets, _, instructions) in SHARED {
        // The compiler sees that it sends nothing and never fails, and leaves out what would do that.
        let fails_or_sends = root == EVENTS || (root == CONTROL && [176, 256].contains(&offsets.start));
        if fails_or_sends && !sends {
            continue;
        }
        wrongs.extend(
            instructions
                .iter()
                .filter(|instruction| at(root, &offsets, instruction) == 0 && **instruction != "ld")
                .map(|instruction| format!("no {instruction} at {root:?}+{offsets:?}")),
        );
    }
    let linked: &[&str] =
        if sends { &["ld.acquire.gpu", "st.release.gpu", "atom"] } else { &["ld.acquire.gpu"] };
    let missing = |instruction: &&&str| at(Root::Table, &(0..i64::MAX), instruction) == 0;
    wrongs.extend(linked.iter().filter(missing).map(|instruction| format!("no {instruction} in links")));
    // A fence behind what was found: the acknowledged faults, the command, the message (in every thread that takes one of its own), room for an event.
    let takers = if matches!(shape, Shape::Thread { .. }) { 2 } else { 1 };
    let wanted = 2 + takers + at(EVENTS, &(256..257), "ld.relaxed.sys");
    let fences = text.matches("fence.acq_rel.sys;").count();
    if fences < wanted {
        wrongs.push(format!("{fences} fences where {wanted} are wanted"));
    }
    if text.contains("call") || text.contains(".func") {
        wrongs.push(String::from("a function that is called"));
    }
    wrongs
}

#[test]
fn what_the_host_sees_is_read_and_written_at_its_scope_and_in_order() {
    let Some(toolchain) = toolchain() else { return };
    for architecture in ARCHITECTURES {
        for shape in SHAPES {
            for (entry, program) in kernels(shape) {
                let text = toolchain.ptx(&input(&program, architecture)).unwrap();
                let wrongs = wrongs(&text, shape, entry != "nothing");
                assert!(wrongs.is_empty(), "{architecture} {entry} {shape:?}: {wrongs:#?}");
            }
        }
    }
}

#[test]
fn a_wrong_scope_or_order_is_noticed() {
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
        .filter(|(right, wrong)| !wrongs(&text.replace(right, wrong), shape, true).is_empty())
        .map(|(right, _)| right)
        .collect();
    assert_eq!(found.len(), changes.len(), "{found:?}");
}
