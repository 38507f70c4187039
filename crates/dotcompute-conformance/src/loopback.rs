//! A device of one thread per ring kernel: the smallest implementation of `Backend` and `DevicePort`.
//!
//! Handlers are Rust functions on bytes. The device keeps the port's contract with a lock and a condition variable. It also checks the
//! runtime's side of the contract: no message without a free slot, sequence numbers in order, no message after a stop.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use dotcompute_core::backend::device_port::{
    AfterFault, DeviceCommand, DeviceEvent, DeviceMessage, DevicePort, DeviceProgram, DeviceState, StateImage,
};
use dotcompute_core::backend::{
    Backend, BackendError, BackendKind, LaunchPlan, Program, Residency, Resident,
};
use dotcompute_core::device::DeviceKernel;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::message::record::{bytes_of, from_bytes};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};

use crate::fixture::{TestBackend, TestDevice};
use crate::kernels::{FAILING, FIRST_WITHOUT_REPLY, Number, TestKernel, number};

/// Capacity of the event queue: small, so that the tests fill it.
const EVENT_CAPACITY: usize = 4;

/// What a handler produces.
#[derive(Debug, Clone)]
pub enum HandlerOutput {
    /// An output.
    Sent(Vec<u8>),
    /// The reply to the request.
    Replied(Vec<u8>),
    /// A reply to a message that no caller asked with.
    UnaskedReply,
}

/// Handles a message: takes the state's bytes, the message's bytes, whether a caller waits for a reply, and the outputs so far, and returns
/// 0 or an error code.
pub type Handler = fn(&mut [u8], &[u8], bool, &mut Vec<HandlerOutput>) -> i32;

/// The device: a table of handlers, and the ring kernels launched so far.
pub struct Loopback {
    handlers: Vec<(&'static str, Handler)>,
    kernels: Mutex<Vec<Arc<Kernel>>>,
}

impl Loopback {
    /// A device with these handlers, by name.
    pub fn new(handlers: &[(&'static str, Handler)]) -> Arc<Self> {
        Arc::new(Self { handlers: handlers.to_vec(), kernels: Mutex::default() })
    }

    /// Marks every ring kernel on the device as lost.
    pub fn lose(&self, reason: &str) {
        for kernel in lock(&self.kernels).iter() {
            kernel.update(|inner| inner.state = DeviceState::Lost(reason.to_owned()));
        }
    }
}

impl Backend for Loopback {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulated
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        let Program::Device(program) = plan.program else {
            unreachable!("the runtime launches device programs only on a device")
        };
        let found = self.handlers.iter().find(|(name, _)| *name == program.entry);
        let Some(&(_, handler)) = found else {
            let problem = format!("no handler `{}` in the code", program.entry);
            return Err(BackendError::Device { backend: self.kind(), doing: "compiling".into(), problem });
        };
        let kernel = Arc::new(Kernel::new(*program));
        lock(&self.kernels).push(Arc::clone(&kernel));
        let device = Arc::clone(&kernel);
        std::thread::spawn(move || device.run(handler));
        let port = LoopbackPort { kernel: Arc::clone(&kernel), current_event: None };
        Ok(Resident { residency: Box::new(LoopbackResidency(kernel)), port: Some(Box::new(port)) })
    }
}

enum Event {
    Output(u64, HandlerOutput),
    Failed(u64, i32),
}

struct Inner {
    inbox: VecDeque<(u64, bool, Vec<u8>)>,
    /// Messages posted: the next sequence number.
    posted: u64,
    events: VecDeque<Event>,
    /// Messages handled.
    done: u64,
    /// Value of `done` at the last [`DeviceEvent::Done`].
    done_reported: u64,
    command: Option<DeviceCommand>,
    state: DeviceState,
    state_bytes: Vec<u8>,
    waker: Option<Waker>,
    exited: bool,
}

struct Kernel {
    program: DeviceProgram,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Kernel {
    fn new(program: DeviceProgram) -> Self {
        let inner = Inner {
            inbox: VecDeque::new(),
            posted: 0,
            events: VecDeque::new(),
            done: 0,
            done_reported: 0,
            command: None,
            state: DeviceState::Launched,
            state_bytes: initial_state(&program.state),
            waker: None,
            exited: false,
        };
        Self { program, inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Changes the shared state and wakes both sides.
    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        let waker = inner.waker.take();
        drop(inner);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    fn is_lost(inner: &Inner) -> bool {
        matches!(inner.state, DeviceState::Lost(_))
    }

    /// The device's thread: waits for a command or a message, handles the message, publishes its events.
    fn run(&self, handler: Handler) {
        loop {
            let mut inner = self.lock();
            let (sequence, wants_reply, message) = loop {
                let next = match inner.command {
                    _ if Self::is_lost(&inner) => Some(inner.state.clone()),
                    Some(DeviceCommand::Stop) => Some(DeviceState::Stopped),
                    Some(DeviceCommand::Pause) => Some(DeviceState::Paused),
                    Some(DeviceCommand::Run) => Some(DeviceState::Running),
                    _ => None,
                };
                if let Some(next) = next
                    && inner.state != next
                    && !(inner.state == DeviceState::Faulted && next == DeviceState::Paused)
                {
                    drop(inner);
                    self.update(|inner| inner.state = next);
                    inner = self.lock();
                    continue;
                }
                if matches!(inner.state, DeviceState::Stopped | DeviceState::Lost(_)) {
                    drop(inner);
                    self.update(|inner| inner.exited = true);
                    return;
                }
                if inner.state == DeviceState::Running
                    && let Some(next) = inner.inbox.pop_front()
                {
                    break next;
                }
                inner = self.changed.wait(inner).expect(CONTRACT_HOLDS);
            };
            let mut state_bytes = std::mem::take(&mut inner.state_bytes);
            drop(inner);
            let mut outputs = Vec::new();
            let code = handler(&mut state_bytes, &message, wants_reply, &mut outputs);
            for output in outputs {
                self.publish(Event::Output(sequence, output));
            }
            if code != 0 {
                self.publish(Event::Failed(sequence, code));
            }
            self.update(|inner| {
                inner.state_bytes = state_bytes;
                inner.done = sequence + 1;
                if code != 0 && self.program.after_fault == AfterFault::Hold && !Self::is_lost(inner) {
                    inner.state = DeviceState::Faulted;
                    // Holds until the next `Run`; a `Stop` that arrived meanwhile stays in effect.
                    if inner.command == Some(DeviceCommand::Run) {
                        inner.command = None;
                    }
                }
            });
        }
    }

    /// Publishes an event; waits for a free slot, except after a stop or a loss.
    fn publish(&self, event: Event) {
        let mut inner = self.lock();
        while inner.events.len() >= EVENT_CAPACITY
            && inner.command != Some(DeviceCommand::Stop)
            && !Self::is_lost(&inner)
        {
            inner = self.changed.wait(inner).expect(CONTRACT_HOLDS);
        }
        drop(inner);
        self.update(|inner| inner.events.push_back(event));
    }
}

struct LoopbackPort {
    kernel: Arc<Kernel>,
    /// The event that the runtime reads now: it borrows the bytes.
    current_event: Option<Event>,
}

impl DevicePort for LoopbackPort {
    fn free_slots(&self) -> usize {
        let inner = self.kernel.lock();
        self.kernel.program.queue_capacity - (inner.posted - inner.done) as usize
    }

    fn post(&mut self, message: DeviceMessage<'_>) {
        assert!(self.free_slots() > 0, "posted without a free slot");
        assert_eq!(message.payload.len(), self.kernel.program.input.size);
        self.kernel.update(|inner| {
            assert_eq!(message.sequence, inner.posted, "sequence numbers in order");
            assert_ne!(inner.command, Some(DeviceCommand::Stop), "posted after a stop");
            inner.posted += 1;
            inner.inbox.push_back((message.sequence, message.wants_reply, message.payload.to_vec()));
        });
    }

    fn next_event(&mut self) -> Option<DeviceEvent<'_>> {
        let kernel = Arc::clone(&self.kernel);
        let mut inner = kernel.lock();
        if let Some(event) = inner.events.pop_front() {
            drop(inner);
            kernel.changed.notify_all();
            return Some(match self.current_event.insert(event) {
                Event::Output(sequence, HandlerOutput::Sent(output)) => {
                    DeviceEvent::Sent { sequence: *sequence, output, linked: 0 }
                }
                Event::Output(_, HandlerOutput::UnaskedReply) => DeviceEvent::UnaskedReply,
                Event::Output(sequence, HandlerOutput::Replied(output)) => {
                    DeviceEvent::Replied { sequence: *sequence, output }
                }
                Event::Failed(sequence, code) => DeviceEvent::Failed { sequence: *sequence, code: *code },
            });
        }
        let up_to = inner.done;
        (std::mem::replace(&mut inner.done_reported, up_to) != up_to)
            .then_some(DeviceEvent::Done { up_to, handler_time: Some(Duration::from_micros(1)) })
    }

    fn has_event(&self) -> bool {
        let inner = self.kernel.lock();
        !inner.events.is_empty() || inner.done != inner.done_reported
    }

    fn state(&self) -> DeviceState {
        self.kernel.lock().state.clone()
    }

    fn command(&mut self, command: DeviceCommand) {
        self.kernel.update(|inner| inner.command = Some(command));
    }

    fn reset_state(&mut self) -> Result<(), BackendError> {
        let mut inner = self.kernel.lock();
        assert_eq!(inner.state, DeviceState::Faulted, "reset while a handler may run");
        inner.state_bytes = initial_state(&self.kernel.program.state);
        Ok(())
    }

    fn read_state(&mut self) -> Result<Vec<u8>, BackendError> {
        let inner = self.kernel.lock();
        assert!(inner.state != DeviceState::Running, "read while a handler may run");
        Ok(inner.state_bytes.clone())
    }

    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        let mut inner = self.kernel.lock();
        assert!(inner.state != DeviceState::Running, "written while a handler may run");
        if bytes.len() != inner.state_bytes.len() {
            let problem = format!("the state has {} bytes, got {}", inner.state_bytes.len(), bytes.len());
            return Err(BackendError::Device {
                backend: BackendKind::Emulated,
                doing: "writing the state".into(),
                problem,
            });
        }
        inner.state_bytes.copy_from_slice(bytes);
        Ok(())
    }

    fn register_waker(&mut self, waker: &Waker, _takes_events: bool) {
        self.kernel.lock().waker = Some(waker.clone());
    }
}

impl Drop for LoopbackPort {
    fn drop(&mut self) {
        self.kernel.update(|inner| inner.command = Some(DeviceCommand::Stop));
    }
}

struct LoopbackResidency(Arc<Kernel>);

impl Residency for LoopbackResidency {
    fn join(&self, deadline: Instant) -> bool {
        let mut inner = self.0.lock();
        while !inner.exited {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()) else { return false };
            inner = self.0.changed.wait_timeout(inner, remaining).expect(CONTRACT_HOLDS).0;
        }
        true
    }
}

/// The bytes of a state at launch and after a restart.
fn initial_state(state: &StateImage) -> Vec<u8> {
    let mut bytes = state.bytes.clone();
    bytes.resize(state.size, 0);
    bytes
}

/// Locks, and panics if an assertion has failed with the lock held: a violated contract ends both sides.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(CONTRACT_HOLDS)
}

const CONTRACT_HOLDS: &str = "no assertion on the contract has failed";

/// [`Loopback`] under test.
pub struct LoopbackDevice(Arc<Loopback>);

impl TestBackend for LoopbackDevice {
    fn open() -> Self {
        Self(Loopback::new(&[("sum", sum), ("count", count), ("echo", echo)]))
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2).device(self.0.clone())).expect("a runtime")
    }

    fn launch(
        &self,
        runtime: &Runtime,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number> {
        self.launch_on_device(runtime, kernel, name, options)
    }

    fn lose_device(&self, reason: &str) -> bool {
        self.0.lose(reason);
        true
    }
}

impl TestDevice for LoopbackDevice {
    fn kernel(&self, entry: &'static str) -> DeviceKernel<Number, Number> {
        // The device has its handlers already; the text is not compiled.
        DeviceKernel::cuda_cpp("test.cu", "").entry(entry).state(number(0)).queue_capacity(4)
    }
}

/// [`TestKernel::Sum`] as a handler of this device.
pub fn sum(state: &mut [u8], message: &[u8], wants_reply: bool, outputs: &mut Vec<HandlerOutput>) -> i32 {
    let value = value_of(message);
    if value == FAILING {
        return 7;
    }
    if value == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let total = number(value_of(state) + value);
    state.copy_from_slice(bytes_of(&total));
    if value < FIRST_WITHOUT_REPLY {
        let total = bytes_of(&total).to_vec();
        outputs.push(if wants_reply { HandlerOutput::Replied(total) } else { HandlerOutput::Sent(total) });
    }
    0
}

/// [`TestKernel::Count`] as a handler of this device.
pub fn count(_: &mut [u8], message: &[u8], _: bool, outputs: &mut Vec<HandlerOutput>) -> i32 {
    outputs
        .extend((0..value_of(message)).map(|value| HandlerOutput::Sent(bytes_of(&number(value)).to_vec())));
    0
}

/// [`TestKernel::Echo`] as a handler of this device.
pub fn echo(_: &mut [u8], message: &[u8], wants_reply: bool, outputs: &mut Vec<HandlerOutput>) -> i32 {
    outputs.push(if wants_reply {
        HandlerOutput::Replied(message.to_vec())
    } else {
        HandlerOutput::UnaskedReply
    });
    0
}

fn value_of(bytes: &[u8]) -> u64 {
    from_bytes::<Number>(bytes)
        .map_or_else(|| unreachable!("a message has the bytes of its layout"), |number| number.value)
}
