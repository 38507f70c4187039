//! Where a ring kernel's outputs go: its output ring, or the input rings of the ring kernels it is connected to.
//!
//! A handler never waits for room. What does not fit at once waits in the driver, and no further message is taken until it
//! has gone: that is how backpressure travels upstream without a pool worker ever being blocked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, Receiver, Sender};
use dotcompute_ring::wait_list::{WaitList, WaitToken};
use dotcompute_ring::{CapacityError, PushError};

use crate::envelope::{Envelope, Received};
use crate::lifecycle::{State, Watch};
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;
use crate::shared::{Core, Shared, Unposted};
use crate::telemetry::Sampler;

/// What became of an output that was offered.
pub(crate) enum Offer<O> {
    Taken,
    /// No room now; offer it again.
    Full(O),
    /// It will never be taken, and why.
    Refused(O, String),
}

/// A place that takes outputs of type `O`.
pub(crate) trait Outlet<O>: Send {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O>;
    /// Ready when offering again may succeed.
    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()>;
}

/// The ring that `receive` reads. Its memory is taken when it is first used.
pub(crate) struct OutputRing<O> {
    capacity: usize,
    ring: OnceLock<Ends<O>>,
    readers: WaitList,
}

struct Ends<O> {
    sender: Sender<Received<O>>,
    /// Handles are many and a ring has one consumer end, so they take turns.
    receiver: Mutex<Receiver<Received<O>>>,
}

impl<O: Message> OutputRing<O> {
    /// Checks the capacity now, so that using the ring cannot fail later.
    pub(crate) fn new(capacity: usize) -> Result<Self, CapacityError> {
        mailbox::check_capacity::<Received<O>>(capacity)?;
        Ok(Self { capacity, ring: OnceLock::new(), readers: WaitList::new(Fence::Symmetric) })
    }

    fn ends(&self) -> &Ends<O> {
        self.ring.get_or_init(|| {
            let options = mailbox::Options {
                capacity: self.capacity,
                overflow: mailbox::Overflow::Reject,
                fence: Fence::Asymmetric,
            };
            let (sender, receiver) = mailbox::channel(options).expect("the capacity was checked at launch");
            Ends { sender, receiver: Mutex::new(receiver) }
        })
    }

    pub(crate) fn try_receive(&self) -> Option<Received<O>> {
        // Not made yet means that nothing was ever put in.
        let ends = self.ring.get()?;
        ends.receiver.lock().unwrap_or_else(PoisonError::into_inner).try_pop()
    }
}

/// The output ring as an outlet.
pub(crate) struct RingOutlet<I, O> {
    shared: Arc<Shared<I, O>>,
    ticket: WaitToken,
}

impl<I: Message, O: Message> RingOutlet<I, O> {
    pub(crate) fn new(shared: Arc<Shared<I, O>>) -> Self {
        Self { shared, ticket: WaitToken::default() }
    }
}

impl<I: Message, O: Message> Outlet<O> for RingOutlet<I, O> {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O> {
        let ring = &self.shared.output;
        let band = Band::of(header.priority.get());
        match ring.ends().sender.try_push(band, Received { header, message: output }) {
            Ok(()) => {
                ring.readers.notify_all();
                Offer::Taken
            }
            Err(PushError::Full(back)) => Offer::Full(back.message),
            Err(PushError::Closed(back)) => {
                Offer::Refused(back.message, String::from("its output ring is closed"))
            }
        }
    }

    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.output.ends().sender.poll_ready(Band::of(priority), &mut self.ticket, cx)
    }
}

/// The input ring of a connected ring kernel as an outlet.
pub(crate) struct KernelOutlet<O, P> {
    to: Arc<Shared<O, P>>,
    input: Sender<Envelope<O, P>>,
    sampler: Sampler,
    ticket: WaitToken,
    watch: WaitToken,
}

impl<O: Message, P: Message> KernelOutlet<O, P> {
    pub(crate) fn new(to: Arc<Shared<O, P>>) -> Self {
        let input = to.input.clone();
        let sampler = Sampler::new(to.core.options.telemetry);
        Self { to, input, sampler, ticket: WaitToken::default(), watch: WaitToken::default() }
    }

    fn refused(&self, output: O) -> Offer<O> {
        let core = &self.to.core;
        Offer::Refused(output, format!("the connected ring kernel `{}` is {}", core.name, core.life.get()))
    }
}

impl<O: Message, P: Message> Outlet<O> for KernelOutlet<O, P> {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O> {
        match self.to.core.life.get() {
            // Pipelines may be activated in any order: what comes early waits.
            State::Created | State::Launched => return Offer::Full(output),
            _ => {}
        }
        let envelope = Envelope { header, stamp: self.sampler.stamp(), reply: None, message: output };
        match self.to.post(&self.input, envelope) {
            Ok(()) => Offer::Taken,
            Err(Unposted::Full(back)) if self.to.core.options.backpressure == Backpressure::Reject => {
                self.to.core.counters.rejected.bump();
                let cause = format!("the connected ring kernel `{}` is full and rejects", self.to.core.name);
                Offer::Refused(back.message, cause)
            }
            Err(Unposted::Full(back)) => Offer::Full(back.message),
            Err(Unposted::Closed(back)) => self.refused(back.message),
        }
    }

    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        let life = &self.to.core.life;
        if life.get() <= State::Launched {
            life.watchers().register(&mut self.watch, cx.waker());
            if life.get() <= State::Launched {
                return Poll::Pending;
            }
        }
        self.input.poll_ready(Band::of(priority), &mut self.ticket, cx)
    }
}

impl<O, P> Drop for KernelOutlet<O, P> {
    fn drop(&mut self) {
        self.to.core.life.watchers().cancel(&mut self.watch);
        self.input.cancel_wait(&mut self.ticket);
    }
}

/// A connection, and the link that its device has for it.
type Route<O> = (Box<dyn Outlet<O>>, Option<u8>);

/// Connections made with `connect`, on their way to the driver, which takes them at a message boundary.
pub(crate) struct Routes<O> {
    /// How many there are; the driver compares it with how many it has.
    made: AtomicUsize,
    new: Mutex<Vec<Route<O>>>,
    clone: OnceLock<fn(&O) -> O>,
}

impl<O> Routes<O> {
    pub(crate) fn new() -> Self {
        Self { made: AtomicUsize::new(0), new: Mutex::new(Vec::new()), clone: OnceLock::new() }
    }

    pub(crate) fn add(&self, outlet: Box<dyn Outlet<O>>, link: Option<u8>)
    where
        O: Clone,
    {
        self.clone.get_or_init(|| O::clone);
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((outlet, link));
        // Release: a driver that sees the count finds the outlet and the clone function.
        self.made.fetch_add(1, Ordering::Release);
    }
}

/// One outlet with the outputs that wait for room in it.
struct Lane<O> {
    outlet: Box<dyn Outlet<O>>,
    /// The link that takes most outputs by another way.
    link: Option<u8>,
    waiting: VecDeque<(MessageHeader, O)>,
}

impl<O: Message> Lane<O> {
    fn new((outlet, link): Route<O>) -> Self {
        Self { outlet, link, waiting: VecDeque::new() }
    }

    /// Passes an output on, or queues it behind those that wait.
    fn pass(&mut self, core: &Core, header: MessageHeader, output: O) {
        if !self.waiting.is_empty() {
            self.waiting.push_back((header, output));
            return;
        }
        match self.outlet.offer(header, output) {
            Offer::Taken => core.counters.emitted.bump_exclusively(),
            Offer::Full(output) => self.waiting.push_back((header, output)),
            Offer::Refused(output, cause) => core.bury_output(header, output, cause),
        }
    }

    fn poll_flush(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((header, output)) = self.waiting.pop_front() {
            match self.outlet.offer(header, output) {
                Offer::Taken => core.counters.emitted.bump_exclusively(),
                Offer::Refused(output, cause) => core.bury_output(header, output, cause),
                Offer::Full(output) => {
                    self.waiting.push_front((header, output));
                    if self.outlet.poll_room(header.priority.get(), cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(())
    }
}

/// All outlets of one ring kernel; owned by its driver.
pub(crate) struct Outlets<O> {
    routes: Arc<Routes<O>>,
    ring: Lane<O>,
    connected: Vec<Lane<O>>,
    backlog: bool,
}

impl<O: Message> Outlets<O> {
    pub(crate) fn new(routes: Arc<Routes<O>>, ring: Box<dyn Outlet<O>>) -> Self {
        Self { routes, ring: Lane::new((ring, None)), connected: Vec::new(), backlog: false }
    }

    /// Whether outputs wait for room.
    #[inline]
    pub(crate) fn is_backed_up(&self) -> bool {
        self.backlog
    }

    pub(crate) fn send(&mut self, core: &Core, header: MessageHeader, output: O) {
        if self.routes.made.load(Ordering::Acquire) != self.connected.len() {
            self.take_new_routes();
        }
        match self.connected.split_last_mut() {
            None => {
                self.ring.pass(core, header, output);
                self.backlog |= !self.ring.waiting.is_empty();
            }
            Some((last, others)) => {
                if !others.is_empty() {
                    let clone = self.routes.clone.get().expect("set before the first connection is counted");
                    for lane in others {
                        lane.pass(core, header, clone(&output));
                        self.backlog |= !lane.waiting.is_empty();
                    }
                }
                last.pass(core, header, output);
                self.backlog |= !last.waiting.is_empty();
            }
        }
    }

    /// As [`send`](Self::send), for an output that some links (a bit each) have taken already: it goes to all others.
    pub(crate) fn send_beside(&mut self, core: &Core, header: MessageHeader, output: O, linked: u8) {
        if linked == 0 {
            return self.send(core, header, output);
        }
        if self.routes.made.load(Ordering::Acquire) != self.connected.len() {
            self.take_new_routes();
        }
        let Some(clone) = self.routes.clone.get() else { return };
        let has_it = |lane: &Lane<O>| lane.link.is_some_and(|link| linked >> link & 1 != 0);
        for lane in self.connected.iter_mut().filter(|lane| !has_it(lane)) {
            lane.pass(core, header, clone(&output));
            self.backlog |= !lane.waiting.is_empty();
        }
    }

    #[cold]
    fn take_new_routes(&mut self) {
        let mut new = self.routes.new.lock().unwrap_or_else(PoisonError::into_inner);
        self.connected.extend(new.drain(..).map(Lane::new));
    }

    /// Passes on what waits. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        let mut all_gone = true;
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            all_gone &= lane.poll_flush(core, cx).is_ready();
        }
        self.backlog = !all_gone;
        if all_gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Makes what waits dead letters: the ring kernel is ending without them.
    pub(crate) fn bury_backlog(&mut self, core: &Core) {
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            for (header, output) in lane.waiting.drain(..) {
                core.bury_output(
                    header,
                    output,
                    String::from("the ring kernel ended while the output waited for room"),
                );
            }
        }
        self.backlog = false;
    }
}

/// Whether a ring kernel in this state will put out nothing more, or has not begun to.
fn nothing_can_come(state: State) -> bool {
    state.has_ended() || state <= State::Launched
}

/// Waiting for something to receive; gives up its place when dropped.
pub(crate) struct ReaderPlace<'a, I, O> {
    shared: &'a Shared<I, O>,
    ticket: WaitToken,
    watch: Watch<'a>,
}

impl<'a, I: Message, O: Message> ReaderPlace<'a, I, O> {
    pub(crate) fn new(shared: &'a Shared<I, O>) -> Self {
        Self { shared, ticket: WaitToken::default(), watch: Watch::new(&shared.core.life) }
    }

    /// A look in passing, or one that arranges to be woken.
    pub(crate) fn look(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<Received<O>, State>> {
        if let Some(cx) = cx {
            return self.poll(cx);
        }
        let state = self.shared.core.life.get();
        match self.shared.output.try_receive() {
            Some(received) => Poll::Ready(Ok(received)),
            None if nothing_can_come(state) => Poll::Ready(Err(state)),
            None => Poll::Pending,
        }
    }

    /// Ready with an output, or with the state once nothing can come any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<O>, State>> {
        let output = &self.shared.output;
        if let Some(received) = output.try_receive() {
            return Poll::Ready(Ok(received));
        }
        output.readers.register(&mut self.ticket, cx.waker());
        let over = self.watch.poll(cx, nothing_can_come);
        // Looked at again after announcing: what was put in between, or just before the end, is found here.
        match (output.try_receive(), over) {
            (Some(received), _) => Poll::Ready(Ok(received)),
            (None, Poll::Ready(state)) => Poll::Ready(Err(state)),
            (None, Poll::Pending) => Poll::Pending,
        }
    }
}

impl<I, O> Drop for ReaderPlace<'_, I, O> {
    fn drop(&mut self) {
        self.shared.output.readers.cancel(&mut self.ticket);
    }
}
