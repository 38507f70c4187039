//! Relaunches of ring kernels, each on a thread that waits for nothing else.
//!
//! A relaunch waits for the exit of the last grid and makes a driver call that may take long. The thread that finds it necessary is a worker,
//! a caller that spins or the watchdog, and other ring kernels need it too. Each relaunch therefore gets a thread of its own while it lasts:
//! one that is idle, or a new one. Idle threads end by themselves.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One relaunch.
type Relaunch = Box<dyn FnOnce() + Send>;

/// An idle thread ends after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// The threads of this process that relaunch ring kernels.
static RELAUNCHER: Relauncher = Relauncher { inner: Mutex::new(Inner::NEW), queued: Condvar::new() };

struct Relauncher {
    inner: Mutex<Inner>,
    queued: Condvar,
}

struct Inner {
    queue: VecDeque<Relaunch>,
    /// Threads that wait for a relaunch.
    idle: usize,
}

impl Inner {
    const NEW: Self = Self { queue: VecDeque::new(), idle: 0 };
}

/// Runs `relaunch` soon, on another thread. Does not wait, unless the system has no thread for it: then it runs here.
pub(crate) fn submit(relaunch: impl FnOnce() + Send + 'static) {
    let mut inner = RELAUNCHER.lock();
    inner.queue.push_back(Box::new(relaunch));
    if inner.idle >= inner.queue.len() {
        RELAUNCHER.queued.notify_one();
        return;
    }
    drop(inner);
    let spawned = std::thread::Builder::new().name(String::from("dc-relaunch")).spawn(|| RELAUNCHER.run());
    if spawned.is_err() {
        // Not under the lock: a relaunch takes long.
        let relaunch = RELAUNCHER.lock().queue.pop_back();
        if let Some(relaunch) = relaunch {
            relaunch();
        }
    }
}

impl Relauncher {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(relaunch) = self.next() {
            relaunch();
        }
    }

    /// Waits for a relaunch. Returns `None` if none came in [`IDLE_LIMIT`].
    fn next(&self) -> Option<Relaunch> {
        let mut inner = self.lock();
        inner.idle += 1;
        let waited = self.queued.wait_timeout_while(inner, IDLE_LIMIT, |inner| inner.queue.is_empty());
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        inner.idle -= 1;
        inner.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::task::{Wake, Waker};
    use std::time::Instant;

    use dotcompute_conformance::{DEVICE_HANDLERS, Number, number, watchdog};
    use dotcompute_core::backend::device_port::{DeviceCommand, DeviceMessage, DevicePort as _};
    use dotcompute_core::backend::{BackendError, BackendKind};
    use dotcompute_core::device::DeviceKernel;
    use dotcompute_core::message::MessageHeader;

    use super::*;
    use crate::device_port::Port;
    use crate::emulated::host_memory::HostMemory;
    use crate::host_device_channel::{ChannelLayout, ChannelMemory, HostDeviceChannel};
    use crate::protocol::{STATE_OFF_DEVICE, STATE_RUNNING};
    use crate::resident_grid::{LinkMemory, ResidentGrid};
    use crate::resident_kernel::ResidentKernel;
    use crate::watchdog::Watchdog;

    /// A grid whose launches report that they have begun, and then wait for permission.
    struct SlowGrid {
        begun: Sender<()>,
        permitted: Mutex<Receiver<()>>,
    }

    fn unsupported<T>() -> Result<T, BackendError> {
        let problem = String::from("the grid of this test only launches");
        Err(BackendError::Unsupported { backend: BackendKind::Emulated, problem })
    }

    impl ResidentGrid for SlowGrid {
        fn start(&self) -> Result<(), BackendError> {
            self.begun.send(()).unwrap();
            self.permitted.lock().unwrap().recv().unwrap();
            Ok(())
        }

        fn wait_exited(&self, _: Instant) -> bool {
            true
        }

        fn reset_state(&self) -> Result<(), BackendError> {
            unsupported()
        }

        fn read_state(&self) -> Result<Vec<u8>, BackendError> {
            unsupported()
        }

        fn write_state(&self, _: &[u8]) -> Result<(), BackendError> {
            unsupported()
        }

        fn quiesced(&self, _: &mut dyn FnMut()) -> Result<(), BackendError> {
            unsupported()
        }

        fn link_memory(&self, _: usize) -> Result<Arc<dyn LinkMemory>, BackendError> {
            unsupported()
        }

        fn keep_alive(&self, _: Arc<dyn LinkMemory>) {}

        fn device_key(&self) -> usize {
            0
        }

        fn abandon(&self) {}
    }

    /// A ring kernel that is off the device and has been commanded to run.
    struct OffDevice {
        port: Port,
        memory: Arc<ChannelMemory>,
        begun: Receiver<()>,
        permit: Sender<()>,
    }

    fn off_device(name: &str, watchdog: &Arc<Watchdog>) -> OffDevice {
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("conformance.cu", DEVICE_HANDLERS);
        let kernel = kernel.entry("sum").state(number(0));
        let layout = ChannelLayout::new(8, 8, 4).unwrap();
        let channel = HostDeviceChannel::new(Arc::new(HostMemory::zeroed(layout.bytes())), layout).unwrap();
        let memory = Arc::clone(&channel.memory);
        let ((begins, begun), (permit, permitted)) = (mpsc::channel(), mpsc::channel());
        let grid = Arc::new(SlowGrid { begun: begins, permitted: Mutex::new(permitted) });
        let resident = ResidentKernel::new(name, grid, Arc::clone(&memory));
        let mut port = Port::new(channel, resident, kernel.program(), Arc::clone(watchdog));
        memory.control().status.state.store(STATE_OFF_DEVICE, Ordering::Release);
        port.command(DeviceCommand::Run);
        OffDevice { port, memory, begun, permit }
    }

    impl OffDevice {
        fn post(&mut self) {
            let header = MessageHeader::new();
            self.port.post(DeviceMessage { sequence: 0, header, wants_reply: false, payload: &[0; 8] });
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_relaunch_that_takes_long_delays_no_other_ring_kernel() {
        watchdog!();
        let watchdog = Watchdog::start("test", Duration::from_secs(600)).unwrap();
        let mut slow: Vec<OffDevice> = (0..3).map(|_| off_device("slow", &watchdog)).collect();
        for kernel in &mut slow {
            // Returns although the launch does not, and the launch begins.
            kernel.post();
            kernel.begun.recv().unwrap();
        }
        let mut other = off_device("other", &watchdog);
        other.post();
        other.begun.recv().unwrap();
        other.permit.send(()).unwrap();
        let wakes = Arc::new(Wakes::default());
        other.memory.control().status.state.store(STATE_RUNNING, Ordering::Release);
        other.port.register_waker(&Waker::from(Arc::clone(&wakes)), true);
        other.memory.control().status.state.store(STATE_OFF_DEVICE, Ordering::Release);
        while wakes.0.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        slow.iter().for_each(|kernel| kernel.permit.send(()).unwrap());
    }
}
