//! A device made of one thread per ring kernel: the second implementer of the `Backend` trait, for tests.
//!
//! It keeps the port's contract by the simplest means, a lock and two condition variables, and checks on the way that the runtime
//! keeps its side: no message without room, tickets in order, no call after a stop.

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

/// Events that fit on their way back.
const EVENTS: usize = 4;

/// What a handler gives back: an output or an answer.
#[derive(Debug, Clone)]
pub enum Out {
    Sent(Vec<u8>),
    Replied(Vec<u8>),
}

/// State bytes, message bytes, what to send; returns a code.
pub type Handler = fn(&mut [u8], &[u8], &mut Vec<Out>) -> i32;

/// A device that knows these handlers by their names.
pub struct Loopback {
    handlers: Vec<(&'static str, Handler)>,
    kernels: Mutex<Vec<Arc<Kernel>>>,
}

impl Loopback {
    pub fn new(handlers: &[(&'static str, Handler)]) -> Arc<Self> {
        Arc::new(Self { handlers: handlers.to_vec(), kernels: Mutex::default() })
    }

    /// Loses the device with all that is on it.
    pub fn lose(&self, why: &str) {
        for kernel in self.kernels.lock().unwrap().iter() {
            kernel.update(|inner| inner.state = DeviceState::Lost(why.to_owned()));
        }
    }
}

impl Backend for Loopback {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulated
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        let Program::Device(program) = plan.program else { panic!("not for a device") };
        let found = self.handlers.iter().find(|(name, _)| *name == program.entry);
        let Some(&(_, handler)) = found else {
            let problem = format!("no handler `{}` in the code", program.entry);
            return Err(BackendError::Device { backend: self.kind(), doing: "compiling".into(), problem });
        };
        let kernel = Arc::new(Kernel::new(*program));
        self.kernels.lock().unwrap().push(Arc::clone(&kernel));
        let device = Arc::clone(&kernel);
        std::thread::spawn(move || device.run(handler));
        let port = LoopbackPort { kernel: Arc::clone(&kernel), taken: None };
        Ok(Resident { residency: Box::new(OnLoopback(kernel)), port: Some(Box::new(port)) })
    }
}

enum Event {
    Out(u64, Out),
    Failed(u64, i32),
}

struct Inner {
    inbox: VecDeque<(u64, Vec<u8>)>,
    /// Tickets given out.
    posted: u64,
    events: VecDeque<Event>,
    done: u64,
    done_seen: u64,
    command: Option<DeviceCommand>,
    state: DeviceState,
    memory: Vec<u8>,
    waker: Option<Waker>,
    gone: bool,
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
            done_seen: 0,
            command: None,
            state: DeviceState::Launched,
            memory: image(&program.state),
            waker: None,
            gone: false,
        };
        Self { program, inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Changes something and wakes both sides.
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

    /// The device's side.
    fn run(&self, handler: Handler) {
        loop {
            let mut inner = self.lock();
            let (sequence, message) = loop {
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
                    self.update(|inner| inner.gone = true);
                    return;
                }
                if inner.state == DeviceState::Running
                    && let Some(next) = inner.inbox.pop_front()
                {
                    break next;
                }
                inner = self.changed.wait(inner).unwrap();
            };
            let mut memory = std::mem::take(&mut inner.memory);
            drop(inner);
            let mut outs = Vec::new();
            let code = handler(&mut memory, &message, &mut outs);
            for out in outs {
                self.publish(Event::Out(sequence, out));
            }
            if code != 0 {
                self.publish(Event::Failed(sequence, code));
            }
            self.update(|inner| {
                inner.memory = memory;
                inner.done = sequence + 1;
                if code != 0 && self.program.after_fault == AfterFault::Hold && !Self::is_lost(inner) {
                    inner.state = DeviceState::Faulted;
                    // Holds until it is commanded anew; a stop that came meanwhile stays.
                    if inner.command == Some(DeviceCommand::Run) {
                        inner.command = None;
                    }
                }
            });
        }
    }

    /// Waits for room on the way back; a stop does not wait.
    fn publish(&self, event: Event) {
        let mut inner = self.lock();
        while inner.events.len() >= EVENTS
            && inner.command != Some(DeviceCommand::Stop)
            && !Self::is_lost(&inner)
        {
            inner = self.changed.wait(inner).unwrap();
        }
        drop(inner);
        self.update(|inner| inner.events.push_back(event));
    }
}

struct LoopbackPort {
    kernel: Arc<Kernel>,
    taken: Option<Event>,
}

impl DevicePort for LoopbackPort {
    fn free_slots(&self) -> usize {
        let inner = self.kernel.lock();
        self.kernel.program.queue_capacity - (inner.posted - inner.done) as usize
    }

    fn post(&mut self, message: DeviceMessage<'_>) {
        assert!(self.free_slots() > 0, "posted without room");
        assert_eq!(message.payload.len(), self.kernel.program.input.size);
        self.kernel.update(|inner| {
            assert_eq!(message.sequence, inner.posted, "tickets in order");
            assert_ne!(inner.command, Some(DeviceCommand::Stop), "posted after the stop");
            inner.posted += 1;
            inner.inbox.push_back((message.sequence, message.payload.to_vec()));
        });
    }

    fn next_event(&mut self) -> Option<DeviceEvent<'_>> {
        let kernel = Arc::clone(&self.kernel);
        let mut inner = kernel.lock();
        if let Some(event) = inner.events.pop_front() {
            drop(inner);
            kernel.changed.notify_all();
            return Some(match self.taken.insert(event) {
                Event::Out(sequence, Out::Sent(output)) => {
                    DeviceEvent::Sent { sequence: *sequence, output, linked: 0 }
                }
                Event::Out(sequence, Out::Replied(output)) => {
                    DeviceEvent::Replied { sequence: *sequence, output }
                }
                Event::Failed(sequence, code) => DeviceEvent::Failed { sequence: *sequence, code: *code },
            });
        }
        let up_to = inner.done;
        (std::mem::replace(&mut inner.done_seen, up_to) != up_to)
            .then_some(DeviceEvent::Done { up_to, handler_time: Some(Duration::from_micros(1)) })
    }

    fn has_event(&self) -> bool {
        let inner = self.kernel.lock();
        !inner.events.is_empty() || inner.done != inner.done_seen
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
        inner.memory = image(&self.kernel.program.state);
        Ok(())
    }

    fn read_state(&mut self) -> Result<Vec<u8>, BackendError> {
        let inner = self.kernel.lock();
        assert!(inner.state != DeviceState::Running, "read while a handler may run");
        Ok(inner.memory.clone())
    }

    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        let mut inner = self.kernel.lock();
        assert!(inner.state != DeviceState::Running, "written while a handler may run");
        if bytes.len() != inner.memory.len() {
            let problem = format!("its state has {} bytes, not {}", inner.memory.len(), bytes.len());
            return Err(BackendError::Device {
                backend: BackendKind::Emulated,
                doing: "writing it".into(),
                problem,
            });
        }
        inner.memory.copy_from_slice(bytes);
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

struct OnLoopback(Arc<Kernel>);

impl Residency for OnLoopback {
    fn join(&self, deadline: Instant) -> bool {
        let mut inner = self.0.lock();
        while !inner.gone {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            inner = self.0.changed.wait_timeout(inner, left).unwrap().0;
        }
        true
    }
}

/// A state as it begins.
fn image(state: &StateImage) -> Vec<u8> {
    let mut memory = state.bytes.clone();
    memory.resize(state.size, 0);
    memory
}
