//! The ends of a shared ring: taking them, waiting at them, giving them back.
//!
//! An end is taken by the first call that needs it. Within a process a lock that is only tried keeps two threads off one end; between
//! processes it is the word of the owner, taken by one compare-exchange from nobody or from a process that has ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;
use pyo3::prelude::*;

use super::frame::{Receiver, Sender};
use super::owner_process::Process;
use super::parking::Bed;
use super::segment::Segment;
use crate::threads::errors;

/// How long a wait goes on before it looks whether the other process still runs, and whether there is a signal to handle.
const SLICE: Duration = Duration::from_millis(50);

/// How often this process has been forked off another: what its parent had, it has not.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

fn watch_forks() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // SAFETY: the function only adds to an atomic number, which may be done in a child of any process.
        unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
    });
}

/// How a wait ended.
pub(super) enum Waited {
    Ready,
    TimedOut,
    Died(u32),
}

/// A segment, and what this process has of it.
pub(super) struct Ends {
    // Before the segment, in whose memory they are: fields are dropped in this order.
    producer: Mutex<Option<Box<dyn Sender>>>,
    consumer: Mutex<Option<Box<dyn Receiver>>>,
    pub(super) segment: Segment,
    pub(super) strategy: WaitStrategy,
    /// What [`FORKS`] was when this was made or last looked at it.
    forks: AtomicU64,
    /// Whether this process has made the queue, and its name is to go with it.
    made_here: AtomicBool,
    pub(super) closed: AtomicBool,
    /// When the other side was last seen to run, in nanoseconds after [`beginning`].
    looked_at: AtomicU64,
}

fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}

impl Ends {
    pub(super) fn new(segment: Segment, strategy: WaitStrategy, made_here: bool) -> Self {
        watch_forks();
        Self {
            producer: Mutex::new(None),
            consumer: Mutex::new(None),
            segment,
            strategy,
            forks: AtomicU64::new(FORKS.load(Ordering::Relaxed)),
            made_here: AtomicBool::new(made_here),
            closed: AtomicBool::new(false),
            looked_at: AtomicU64::new(beginning().elapsed().as_nanos() as u64),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.segment.name
    }

    pub(super) fn failure(&self, py: Python<'_>, what: &str) -> PyErr {
        errors::queue_error(py, &format!("Cannot {what} queue '{}'", self.name()))
    }

    /// After a fork: the ends are the parent's, and so is the name.
    #[inline]
    fn forget_if_forked(&self) {
        if self.is_forked() {
            self.forget();
        }
    }

    #[inline]
    fn is_forked(&self) -> bool {
        self.forks.load(Ordering::Relaxed) != FORKS.load(Ordering::Relaxed)
    }

    #[cold]
    fn forget(&self) {
        self.made_here.store(false, Ordering::Relaxed);
        // If another thread had an end at the fork, it stays locked in the child, where there is no such thread.
        let (Ok(mut producer), Ok(mut consumer)) = (self.producer.try_lock(), self.consumer.try_lock())
        else {
            return;
        };
        // Not dropped: that would close the ring under the parent.
        std::mem::forget((producer.take(), consumer.take()));
        self.forks.store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Makes this process the owner of an end.
    fn claim(&self, py: Python<'_>, side: &str, owner: &AtomicU64) -> PyResult<()> {
        let me = Process::current();
        loop {
            let word = owner.load(Ordering::Relaxed);
            if let Some(other) = Process::from_word(word)
                && other.is_alive()
            {
                let what = format!(
                    "Cannot take the {side}'s end of queue '{}': process {} has it; a queue is for one producer and one consumer, so make \
                     another queue for the second",
                    self.name(),
                    other.id()
                );
                return Err(errors::queue_error(py, &what));
            }
            // Acquire: what the last owner did comes before what this one does.
            if owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    pub(super) fn check_open(&self, py: Python<'_>, what: &str) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            let what = format!(
                "Cannot {what} queue '{}': it has been closed in this process; attach again",
                self.name()
            );
            return Err(errors::queue_closed(py, &what));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn enter_producer<'a>(
        &'a self,
        py: Python<'_>,
        taken: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Sender>>>> {
        self.forget_if_forked();
        let mut end = self.producer.try_lock().map_err(|_| errors::end_in_use("producer"))?;
        if end.is_none() {
            self.check_open(py, "put into")?;
            let owner = &self.segment.head().owners.producer;
            self.claim(py, "producer", owner)?;
            // SAFETY: the segment is mapped until after the ends are dropped, all who write to it keep to the protocol, and the word of
            // the owner keeps other producers away.
            let made = unsafe { (self.segment.class.sender)(self.segment.ring(), self.segment.ring_bytes()) };
            let made = made.map_err(|error| self.failure(py, &format!("attach to ({error})")));
            let made = made.inspect_err(|_| owner.store(0, Ordering::Release))?;
            // An owner that was killed may not have come to that.
            self.segment.head().put.0.store(made.pushed(), Ordering::Relaxed);
            *end = Some(made);
            taken()?;
        }
        Ok(end)
    }

    #[inline]
    pub(super) fn enter_consumer<'a>(
        &'a self,
        py: Python<'_>,
        taken: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Receiver>>>> {
        self.forget_if_forked();
        let mut end = self.consumer.try_lock().map_err(|_| errors::end_in_use("consumer"))?;
        if end.is_none() {
            self.check_open(py, "get from")?;
            let owner = &self.segment.head().owners.consumer;
            self.claim(py, "consumer", owner)?;
            // SAFETY: as for the producer.
            let made =
                unsafe { (self.segment.class.receiver)(self.segment.ring(), self.segment.ring_bytes()) };
            let made = made.map_err(|error| self.failure(py, &format!("attach to ({error})")));
            let made = made.inspect_err(|_| owner.store(0, Ordering::Release))?;
            self.segment.head().taken.0.store(made.popped(), Ordering::Relaxed);
            *end = Some(made);
            taken()?;
        }
        Ok(end)
    }

    /// Waits until `ready`, until `deadline`, or until the process in `peer` has ended.
    pub(super) fn wait(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
        bed: &Bed,
        peer: &AtomicU64,
        mut ready: impl FnMut() -> bool + Send,
    ) -> PyResult<Waited> {
        let mut strategy = self.strategy;
        loop {
            let now = Instant::now();
            let slice = now + SLICE;
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            if until > now && py.detach(|| bed.wait(strategy, until, &mut ready)) {
                return Ok(Waited::Ready);
            }
            py.check_signals()?;
            if let Some(died) = self.look_at(peer) {
                // It may have published before its end.
                return Ok(if ready() { Waited::Ready } else { Waited::Died(died) });
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimedOut);
            }
            if strategy == WaitStrategy::Adaptive {
                strategy = WaitStrategy::Park;
            }
        }
    }

    /// The id of the process in `peer` if it has ended. Looks no more often than once in a slice.
    fn look_at(&self, peer: &AtomicU64) -> Option<u32> {
        let now = beginning().elapsed().as_nanos() as u64;
        if now.saturating_sub(self.looked_at.load(Ordering::Relaxed)) < SLICE.as_nanos() as u64 / 2 {
            return None;
        }
        let died = Process::from_word(peer.load(Ordering::Acquire)).filter(|process| !process.is_alive());
        if died.is_none() {
            self.looked_at.store(now, Ordering::Relaxed);
        }
        died.map(Process::id)
    }

    /// Gives the ends back that this has. Those that another thread waits at it gives back itself.
    pub(super) fn give_back(&self) {
        let owners = &self.segment.head().owners;
        let me = Process::current().word();
        if let Ok(mut end) = self.producer.try_lock()
            && end.take().is_some()
        {
            // Release: who takes the end next comes after this.
            let _ = owners.producer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.head().consumer_bed.wake();
        }
        if let Ok(mut end) = self.consumer.try_lock()
            && end.take().is_some()
        {
            let _ = owners.consumer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.head().producer_bed.wake();
        }
    }

    /// Gives the ends up, wakes whoever waits, and takes the name away unless messages would be lost with it.
    pub(super) fn close(&self) {
        self.forget_if_forked();
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let head = self.segment.head();
        let consumes = self.consumer.try_lock().is_ok_and(|end| end.is_some());
        self.give_back();
        // Of this process, if another thread waits.
        head.producer_bed.wake();
        head.consumer_bed.wake();
        let consumer = Process::from_word(head.owners.consumer.load(Ordering::Acquire));
        let reachable = consumes || self.segment.messages() == 0 || consumer.is_some_and(Process::is_alive);
        if consumes || (self.made_here.load(Ordering::Relaxed) && reachable) {
            // Already gone, or not ours to remove: nothing that whoever closes could do about it.
            let _ = Segment::remove(self.name());
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.is_forked() {
            // Also if another thread had an end at the fork: its lock stays locked, and the end is the parent's.
            std::mem::forget(self.producer.get_mut().map(Option::take));
            std::mem::forget(self.consumer.get_mut().map(Option::take));
        }
        self.close();
    }
}
