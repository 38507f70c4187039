//! The endpoints of a shared ring: claiming, waiting, releasing.
//!
//! The first call that needs an endpoint claims it. Two locks exclude a second user. Within a process, a mutex that calls only try to lock
//! excludes other threads. Between processes, the owner word excludes other processes: one compare-exchange claims it if it is 0 or names a
//! process that has ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use dotcompute_ring::record::RecordError;
use dotcompute_ring::wait::WaitStrategy;
use pyo3::prelude::*;

use super::frame::{Receiver, Sender};
use super::owner_process::Process;
use super::parking::ParkingWord;
use super::segment::Segment;
use crate::fork::forks;
use crate::threads::errors;

/// Interval at which a wait checks for signals and whether the other process still runs.
const PEER_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which a wait for a new owner of an endpoint looks.
const OWNER_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// The result of a wait.
pub(super) enum WaitOutcome {
    Ready,
    TimedOut,
    /// The process with this id has ended without closing the queue.
    PeerDied(u32),
}

/// A segment and the endpoints that this process owns.
pub(super) struct Endpoints {
    // The endpoints refer to the memory of the segment, so they precede it: fields are dropped in order.
    producer: Mutex<Option<Box<dyn Sender>>>,
    consumer: Mutex<Option<Box<dyn Receiver>>>,
    pub(super) segment: Segment,
    pub(super) strategy: WaitStrategy,
    /// Value of [`forks`] at creation, or at the last check. A child does not own the endpoints of its parent.
    forks: AtomicU64,
    /// Whether this process created the queue, so that `close` unlinks the name.
    created_here: AtomicBool,
    pub(super) closed: AtomicBool,
    /// When the other process was last seen running, in nanoseconds after [`epoch`].
    peer_checked_at: AtomicU64,
}

/// Start of the clock of `peer_checked_at`.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl Endpoints {
    pub(super) fn new(segment: Segment, strategy: WaitStrategy, created_here: bool) -> Self {
        Self {
            producer: Mutex::new(None),
            consumer: Mutex::new(None),
            segment,
            strategy,
            forks: AtomicU64::new(forks()),
            created_here: AtomicBool::new(created_here),
            closed: AtomicBool::new(false),
            peer_checked_at: AtomicU64::new(epoch().elapsed().as_nanos() as u64),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.segment.name
    }

    pub(super) fn error(&self, py: Python<'_>, operation: &str) -> PyErr {
        errors::queue_error(py, &format!("Cannot {operation} queue '{}'", self.name()))
    }

    fn attach_error(&self, py: Python<'_>, error: &RecordError) -> PyErr {
        errors::queue_error(py, &format!("Cannot attach to queue '{}': {error}", self.name()))
    }

    /// Resets this in the child of a fork: endpoints and name belong to the parent.
    #[inline]
    fn reset_if_forked(&self) {
        if self.is_forked() {
            self.reset_after_fork();
        }
    }

    #[inline]
    fn is_forked(&self) -> bool {
        self.forks.load(Ordering::Relaxed) != forks()
    }

    #[cold]
    fn reset_after_fork(&self) {
        self.created_here.store(false, Ordering::Relaxed);
        // If another thread held an endpoint at the fork, it stays locked in the child, where that thread does not exist.
        let (Ok(mut producer), Ok(mut consumer)) = (self.producer.try_lock(), self.consumer.try_lock())
        else {
            return;
        };
        // Forget, not drop: a drop would close the ring that the parent uses.
        std::mem::forget((producer.take(), consumer.take()));
        self.forks.store(forks(), Ordering::Relaxed);
    }

    /// Makes this process the owner of an endpoint.
    fn claim_owner(&self, py: Python<'_>, side: &str, owner: &AtomicU64) -> PyResult<()> {
        let me = Process::current();
        loop {
            let word = owner.load(Ordering::Relaxed);
            if let Some(other) = Process::from_word(word)
                && other.is_alive()
            {
                let text = format!(
                    "Cannot claim the {side}'s end of queue '{}': process {} has it; a queue has one producer and one consumer, so create \
                     another queue for the second",
                    self.name(),
                    other.id()
                );
                return Err(errors::queue_error(py, &text));
            }
            // SYNC POINT: owner word
            // Acquire: pairs with the release in `release`; the accesses of the last owner come before those of this one.
            if owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    pub(super) fn check_open(&self, py: Python<'_>, operation: &str) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            let text = format!(
                "Cannot {operation} queue '{}': it has been closed in this process; attach again",
                self.name()
            );
            return Err(errors::queue_closed(py, &text));
        }
        Ok(())
    }

    /// Locks the producer endpoint, after claiming it on first use. `on_claim` runs after a claim.
    #[inline]
    pub(super) fn lock_producer<'a>(
        &'a self,
        py: Python<'_>,
        on_claim: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Sender>>>> {
        self.reset_if_forked();
        let mut endpoint = self.producer.try_lock().map_err(|_| errors::end_in_use("producer"))?;
        if endpoint.is_none() {
            self.check_open(py, "put into")?;
            let owner = &self.segment.header().owners.producer;
            self.claim_owner(py, "producer", owner)?;
            // SAFETY: `segment` is dropped after the endpoints, so the memory stays mapped. Processes that attach follow the protocol of
            // the ring, and the owner word, claimed above, excludes other producers.
            let attached =
                unsafe { (self.segment.class.sender)(self.segment.ring(), self.segment.ring_bytes()) };
            let attached = attached.map_err(|error| self.attach_error(py, &error));
            let attached = attached.inspect_err(|_| owner.store(0, Ordering::Release))?;
            // The last owner may have been killed between its push and this store.
            self.segment.header().pushed.0.store(attached.pushed(), Ordering::Relaxed);
            *endpoint = Some(attached);
            on_claim()?;
        }
        Ok(endpoint)
    }

    /// Locks the consumer endpoint, after claiming it on first use. `on_claim` runs after a claim.
    #[inline]
    pub(super) fn lock_consumer<'a>(
        &'a self,
        py: Python<'_>,
        on_claim: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Receiver>>>> {
        self.reset_if_forked();
        let mut endpoint = self.consumer.try_lock().map_err(|_| errors::end_in_use("consumer"))?;
        if endpoint.is_none() {
            self.check_open(py, "get from")?;
            let owner = &self.segment.header().owners.consumer;
            self.claim_owner(py, "consumer", owner)?;
            // SAFETY: `segment` is dropped after the endpoints, so the memory stays mapped. Processes that attach follow the protocol of
            // the ring, and the owner word, claimed above, excludes other consumers.
            let attached =
                unsafe { (self.segment.class.receiver)(self.segment.ring(), self.segment.ring_bytes()) };
            let attached = attached.map_err(|error| self.attach_error(py, &error));
            let attached = attached.inspect_err(|_| owner.store(0, Ordering::Release))?;
            self.segment.header().popped.0.store(attached.popped(), Ordering::Relaxed);
            *endpoint = Some(attached);
            on_claim()?;
        }
        Ok(endpoint)
    }

    /// Waits until `ready`, until `deadline`, or until the process in the owner word `peer` has ended.
    pub(super) fn wait(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
        parking: &ParkingWord,
        peer: &AtomicU64,
        mut ready: impl FnMut() -> bool + Send,
    ) -> PyResult<WaitOutcome> {
        let mut strategy = self.strategy;
        loop {
            let now = Instant::now();
            let next_check = now + PEER_CHECK_INTERVAL;
            let until = deadline.map_or(next_check, |deadline| deadline.min(next_check));
            if until > now && py.detach(|| parking.wait(strategy, until, &mut ready)) {
                return Ok(WaitOutcome::Ready);
            }
            py.check_signals()?;
            if let Some(died) = self.check_peer(peer) {
                // The process may have published before it ended.
                return Ok(if ready() { WaitOutcome::Ready } else { WaitOutcome::PeerDied(died) });
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(WaitOutcome::TimedOut);
            }
            if strategy == WaitStrategy::Adaptive {
                strategy = WaitStrategy::Park;
            }
        }
    }

    /// Returns the id of the process in `peer` if it has ended. Checks at most once per half [`PEER_CHECK_INTERVAL`].
    fn check_peer(&self, peer: &AtomicU64) -> Option<u32> {
        let now = epoch().elapsed().as_nanos() as u64;
        if now.saturating_sub(self.peer_checked_at.load(Ordering::Relaxed))
            < PEER_CHECK_INTERVAL.as_nanos() as u64 / 2
        {
            return None;
        }
        let died = Process::from_word(peer.load(Ordering::Acquire)).filter(|process| !process.is_alive());
        if died.is_none() {
            self.peer_checked_at.store(now, Ordering::Relaxed);
        }
        died.map(Process::id)
    }

    /// Releases the endpoints that this process owns. A thread that is waiting on an endpoint releases that one itself.
    pub(super) fn release(&self) {
        let owners = &self.segment.header().owners;
        let me = Process::current().word();
        if let Ok(mut endpoint) = self.producer.try_lock()
            && endpoint.take().is_some()
        {
            // SYNC POINT: owner word
            // Release: pairs with the acquire in `claim_owner`; the accesses of this process come before those of the next owner.
            let _ = owners.producer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.header().consumer_parking.wake();
        }
        if let Ok(mut endpoint) = self.consumer.try_lock()
            && endpoint.take().is_some()
        {
            // Release: as for the producer.
            let _ = owners.consumer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.header().producer_parking.wake();
        }
    }

    /// Waits until a running process owns the endpoint of `owner`. Returns its id, or `None` at the deadline.
    pub(super) fn wait_for_owner(
        &self,
        py: Python<'_>,
        owner: &AtomicU64,
        deadline: Option<Instant>,
    ) -> PyResult<Option<u32>> {
        loop {
            self.check_open(py, "wait at")?;
            let process = Process::from_word(owner.load(Ordering::Acquire));
            if let Some(process) = process.filter(|process| process.is_alive()) {
                return Ok(Some(process.id()));
            }
            let now = Instant::now();
            let next_check = now + OWNER_CHECK_INTERVAL;
            let until = deadline.map_or(next_check, |deadline| deadline.min(next_check));
            if until <= now {
                return Ok(None);
            }
            py.detach(|| std::thread::sleep(until - now));
            py.check_signals()?;
        }
    }

    /// Releases the endpoints, wakes all waiters, and unlinks the name unless that would make queued messages unreachable.
    pub(super) fn close(&self) {
        self.reset_if_forked();
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let header = self.segment.header();
        let is_consumer = self.consumer.try_lock().is_ok_and(|endpoint| endpoint.is_some());
        let is_creator = self.created_here.load(Ordering::Relaxed);
        self.release();
        if is_creator {
            header.owners.creator.store(0, Ordering::Release);
        }
        // Wake threads of this process that wait on an endpoint.
        header.producer_parking.wake();
        header.consumer_parking.wake();
        if is_consumer || (is_creator && self.is_reachable()) || self.is_abandoned() {
            // Ignored: the name does not exist any more, or this user may not unlink it. The caller of `close` can do nothing about it.
            let _ = Segment::remove(self.name());
        }
    }

    /// Whether no queued message needs the name: there is none, or a running consumer has the queue open.
    fn is_reachable(&self) -> bool {
        let consumer = Process::from_word(self.segment.header().owners.consumer.load(Ordering::Acquire));
        self.segment.messages() == 0 || consumer.is_some_and(Process::is_alive)
    }

    /// Whether the name would outlive every process that used the queue: none that owns it runs, and one was killed that would have
    /// unlinked it. That is the consumer, or the creator of an empty queue.
    fn is_abandoned(&self) -> bool {
        let owners = &self.segment.header().owners;
        let [producer, consumer, creator] = [&owners.producer, &owners.consumer, &owners.creator]
            .map(|owner| Process::from_word(owner.load(Ordering::Acquire)));
        let was_killed = consumer.is_some() || (creator.is_some() && self.segment.messages() == 0);
        was_killed && ![producer, consumer, creator].into_iter().flatten().any(Process::is_alive)
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        if self.is_forked() {
            // `get_mut` ignores the lock, which stays locked if another thread held the endpoint at the fork. The endpoint belongs to the
            // parent.
            std::mem::forget(self.producer.get_mut().map(Option::take));
            std::mem::forget(self.consumer.get_mut().map(Option::take));
        }
        self.close();
    }
}
