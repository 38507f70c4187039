//! The memory that the host and the device of one ring kernel share: the control words, the ring of messages, the ring of events.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dotcompute_ring::layout::CACHE_LINE;
use dotcompute_ring::record::{self, RecordError};
use dotcompute_ring::spsc::{Consumer, Producer};

use crate::protocol::{Control, EventHead, MessageHead, Ring};

/// Events that fit on their way to the host.
pub(crate) const EVENTS: usize = 256;

/// Bytes before a ring's slots: its control lines.
const SLOTS: usize = 4 * CACHE_LINE;
/// Bytes before a slot's payload: its word.
const WORD: usize = size_of::<u64>();

/// Memory that host and device both reach: zeroed, aligned to [`CACHE_LINE`], and kept until it is dropped.
///
/// # Safety
///
/// `base` is the address of `len` bytes that can be read and written for as long as this lives.
pub(crate) unsafe trait SharedMemory: Send + Sync {
    /// Where it is on the host.
    fn base(&self) -> NonNull<u8>;
    /// Its size in bytes.
    fn len(&self) -> usize;
    /// Where it is on the device.
    fn device_base(&self) -> u64;
}

/// Where the parts lie in the memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    input: Part,
    events: Part,
    queue: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    offset: usize,
    bytes: usize,
    /// 64-bit words of a payload.
    words: usize,
}

impl Part {
    /// Bytes from one slot to the next.
    fn stride(self) -> usize {
        WORD + 8 * self.words
    }
}

/// Words of a payload, for slots that fill whole lines. A slot is a payload and its word.
const CLASSES: [usize; 7] = [7, 15, 31, 63, 127, 255, 511];

/// Why there is no such exchange.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("its {what} has {bytes} bytes, and a slot holds at most {most}; send large data by handle")]
    TooLarge { what: &'static str, bytes: usize, most: usize },
    #[error("its ring: {0}")]
    Ring(#[from] RecordError),
}

/// The smallest class of slot that holds `bytes` after a head of `head` bytes.
fn class(what: &'static str, head: usize, bytes: usize) -> Result<usize, ExchangeError> {
    let holds = |words: &usize| words * 8 >= head + bytes;
    let most = CLASSES[CLASSES.len() - 1] * 8 - head;
    CLASSES.iter().copied().find(holds).ok_or(ExchangeError::TooLarge { what, bytes, most })
}

/// Calls `$what::<[u64; N]>` for the class at hand.
macro_rules! by_class {
    ($words:expr, $what:ident $(($($argument:expr),*))?) => {
        match $words {
            7 => $what::<7>($($($argument),*)?),
            15 => $what::<15>($($($argument),*)?),
            31 => $what::<31>($($($argument),*)?),
            63 => $what::<63>($($($argument),*)?),
            127 => $what::<127>($($($argument),*)?),
            255 => $what::<255>($($($argument),*)?),
            _ => $what::<511>($($($argument),*)?),
        }
    };
}

impl Plan {
    /// The plan for messages and outputs of these sizes, and a ring of `queue` messages.
    pub(crate) fn new(input_size: usize, output_size: usize, queue: usize) -> Result<Self, ExchangeError> {
        let part = |offset: usize, words: usize, slots: usize| {
            let bytes = by_class!(words, ring_bytes(slots))?;
            Ok::<_, ExchangeError>(Part { offset, bytes, words })
        };
        // An event brings an output, or a message back that came over a link.
        let head = size_of::<EventHead>();
        let words = class("message", head, input_size)?.max(class("output", head, output_size)?);
        let input =
            part(size_of::<Control>(), class("message", size_of::<MessageHead>(), input_size)?, queue)?;
        let events = part((input.offset + input.bytes).next_multiple_of(CACHE_LINE), words, EVENTS)?;
        Ok(Self { input, events, queue, bytes: events.offset + events.bytes })
    }

    /// How much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn ring_bytes<const N: usize>(slots: usize) -> Result<usize, RecordError> {
    Ok(record::required_bytes::<[u64; N]>(slots)?)
}

/// The host's producer of messages, whatever the class of its slots.
pub(crate) trait Messages: Send {
    fn push(&mut self, head: MessageHead, message: &[u8]) -> bool;
    fn pushed(&self) -> u64;
    fn popped(&self) -> u64;
    fn capacity(&self) -> usize;
}

impl<const N: usize> Messages for Producer<[u64; N]> {
    fn push(&mut self, head: MessageHead, message: &[u8]) -> bool {
        let mut cell = [0; N];
        cell[0] = u64::from(head.wants_reply) | u64::from(head.priority) << 32;
        fill(&mut cell[1..], message);
        self.try_push(cell).is_ok()
    }

    fn pushed(&self) -> u64 {
        Producer::pushed(self)
    }

    fn popped(&self) -> u64 {
        Producer::popped(self)
    }

    fn capacity(&self) -> usize {
        Producer::capacity(self)
    }
}

/// Puts bytes into words, in the order they have in memory.
fn fill(words: &mut [u64], bytes: &[u8]) {
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
}

/// The host's consumer of events.
pub(crate) trait Events: Send {
    /// Takes the next event; its output's bytes are put into `output`.
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHead>;
    /// The sequence of the message that the next event belongs to.
    fn next_ticket(&mut self) -> Option<u64>;
    fn is_empty(&self) -> bool;
    fn popped(&self) -> u64;
}

impl<const N: usize> Events for Consumer<[u64; N]> {
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHead> {
        let cell = self.try_pop()?;
        for (bytes, word) in output.chunks_mut(8).zip(&cell[2..]) {
            bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
        }
        let [kind, code] = [cell[1] as u32, (cell[1] >> 32) as u32];
        Some(EventHead { sequence: cell[0], kind, code: code.cast_signed() })
    }

    fn next_ticket(&mut self) -> Option<u64> {
        self.peek().map(|cell| cell[0])
    }

    fn is_empty(&self) -> bool {
        Consumer::is_empty(self)
    }

    fn popped(&self) -> u64 {
        Consumer::popped(self)
    }
}

#[cfg(target_endian = "big")]
compile_error!("heads are packed as little-endian machines have them, as all that CUDA runs on are");

/// The exchange of one ring kernel, with the host's ends of both rings.
pub(crate) struct Exchange {
    pub(crate) words: Arc<Words>,
    pub(crate) messages: Box<dyn Messages>,
    pub(crate) events: Box<dyn Events>,
}

/// The memory, for whoever reads and writes single words of it.
pub(crate) struct Words {
    memory: Arc<dyn SharedMemory>,
    plan: Plan,
}

impl Exchange {
    /// Lays out the memory, which nobody uses yet.
    pub(crate) fn new(memory: Arc<dyn SharedMemory>, plan: Plan) -> Result<Self, ExchangeError> {
        let words = Arc::new(Words { memory, plan });
        let messages = by_class!(plan.input.words, messages(&words))?;
        let events = by_class!(plan.events.words, events(&words))?;
        Ok(Self { words, messages, events })
    }
}

/// An end that keeps the memory it is in: the end first, since fields are dropped in order.
struct Kept<E> {
    end: E,
    _words: Arc<Words>,
}

impl<E: Messages> Messages for Kept<E> {
    fn push(&mut self, head: MessageHead, message: &[u8]) -> bool {
        self.end.push(head, message)
    }
    fn pushed(&self) -> u64 {
        self.end.pushed()
    }
    fn popped(&self) -> u64 {
        self.end.popped()
    }
    fn capacity(&self) -> usize {
        self.end.capacity()
    }
}

impl<E: Events> Events for Kept<E> {
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHead> {
        self.end.pop(output)
    }
    fn next_ticket(&mut self) -> Option<u64> {
        self.end.next_ticket()
    }
    fn is_empty(&self) -> bool {
        self.end.is_empty()
    }
    fn popped(&self) -> u64 {
        self.end.popped()
    }
}

fn messages<const N: usize>(words: &Arc<Words>) -> Result<Box<dyn Messages>, ExchangeError> {
    let Part { offset, bytes, .. } = words.plan.input;
    let place = words.at(offset);
    // SAFETY: the plan's parts lie apart and within the memory, which `Kept` keeps; nobody used it before, and the device, the one
    // consumer, keeps to the protocol.
    unsafe {
        record::create::<[u64; N]>(place, bytes, words.plan.queue)?;
        Ok(Box::new(Kept { end: record::producer::<[u64; N]>(place, bytes)?, _words: Arc::clone(words) }))
    }
}

fn events<const N: usize>(words: &Arc<Words>) -> Result<Box<dyn Events>, ExchangeError> {
    let Part { offset, bytes, .. } = words.plan.events;
    let place = words.at(offset);
    // SAFETY: as for `messages`; the device is the one producer.
    unsafe {
        record::create::<[u64; N]>(place, bytes, EVENTS)?;
        Ok(Box::new(Kept { end: record::consumer::<[u64; N]>(place, bytes)?, _words: Arc::clone(words) }))
    }
}

impl Words {
    fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < self.memory.len(), "the plan fits the memory");
        // SAFETY: the offsets are the plan's, whose bytes the memory has.
        unsafe { self.memory.base().add(offset) }
    }

    /// The control words.
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the first bytes of the memory, aligned to a line, zero at first, which is a valid `Control` of atomics; neither
        // side uses them for anything else.
        unsafe { self.at(0).cast::<Control>().as_ref() }
    }

    /// Of the messages that came over links, those whose handler failed.
    pub(crate) fn linked_failed(&self) -> u64 {
        // Relaxed: written before they count as done, which whoever asks has acquired.
        self.control().device.linked_failed.load(Ordering::Relaxed)
    }

    /// How many messages the device is done with.
    pub(crate) fn done(&self) -> u64 {
        // SAFETY: the consumer's index of the ring of messages, at the beginning of its line: an aligned word, only used as an atomic.
        let head = unsafe { self.at(self.plan.input.offset + 2 * CACHE_LINE).cast::<AtomicU64>().as_ref() };
        head.load(Ordering::Relaxed)
    }

    /// The word of an event's slot.
    pub(crate) fn event_word(&self, sequence: u64) -> &AtomicU64 {
        let part @ Part { offset, .. } = self.plan.events;
        let index = (sequence as usize) & (EVENTS.next_power_of_two() - 1);
        // SAFETY: within the ring's slots, by the layout that `create` has given it; an aligned word that is only used as an atomic.
        unsafe { self.at(offset + SLOTS + index * part.stride()).cast().as_ref() }
    }

    /// The device's address of the control words.
    pub(crate) fn device_control(&self) -> u64 {
        self.memory.device_base()
    }

    /// The ring of messages, as the device sees it.
    pub(crate) fn device_input(&self) -> Ring {
        self.device_ring(self.plan.input, self.plan.queue)
    }

    /// The ring of events, as the device sees it.
    pub(crate) fn device_events(&self) -> Ring {
        self.device_ring(self.plan.events, EVENTS)
    }

    fn device_ring(&self, part: Part, slots: usize) -> Ring {
        Self::ring_at(self.memory.device_base() + part.offset as u64, part, slots)
    }

    fn ring_at(control: u64, part: Part, slots: usize) -> Ring {
        Ring { control, mask: slots.next_power_of_two() as u64 - 1, stride: part.stride() as u64 }
    }

    /// How much memory a link to this ring kernel takes, of so many messages (a power of two).
    pub(crate) fn link_bytes(&self, slots: usize) -> usize {
        SLOTS + slots * self.plan.input.stride()
    }

    /// The ring of a link to this ring kernel, in memory that begins at this address and is zero.
    pub(crate) fn link_ring(&self, address: u64, slots: usize) -> Ring {
        Self::ring_at(address, self.plan.input, slots)
    }

    /// Where in its memory the slot of this sequence is.
    pub(crate) fn link_slot(ring: Ring, sequence: u64) -> usize {
        SLOTS + ((sequence & ring.mask) * ring.stride) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;

    fn exchange(input: usize, output: usize, queue: usize) -> Exchange {
        let plan = Plan::new(input, output, queue).unwrap();
        Exchange::new(Arc::new(HostMemory::zeroed(plan.bytes())), plan).unwrap()
    }

    #[test]
    fn slots_are_as_large_as_they_must_be_and_no_larger() {
        for (bytes, words) in [(1, 7), (48, 7), (49, 15), (112, 15), (4080, 511)] {
            assert_eq!(class("message", 8, bytes).unwrap(), words);
        }
        let error = Plan::new(4073, 8, 8).unwrap_err().to_string();
        assert!(error.contains("message has 4073 bytes") && error.contains("at most 4072"), "{error}");
        assert!(Plan::new(8, 4073, 8).unwrap_err().to_string().contains("at most 4072"));
        assert!(Plan::new(8, 8, 0).is_err());
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let mut exchange = exchange(100, 8, 3);
        let head = MessageHead { wants_reply: 1, priority: 200 };
        assert_eq!(exchange.messages.capacity(), 4, "rounded up");
        assert!((0..4).all(|_| exchange.messages.push(head, &[7; 100])));
        assert!(!exchange.messages.push(head, &[7; 100]));
        assert_eq!((exchange.messages.pushed(), exchange.messages.popped()), (4, 0));
    }

    #[test]
    fn an_event_is_read_as_the_device_wrote_it() {
        let mut exchange = exchange(8, 12, 4);
        let mut output = [0; 12];
        assert_eq!(exchange.events.pop(&mut output), None);
        let word = exchange.words.event_word(0);
        // SAFETY: the payload of the first slot, behind its word, which nobody reads before the word says so.
        unsafe {
            let payload = std::ptr::from_ref(word).add(1).cast_mut();
            payload.cast::<EventHead>().write(EventHead { sequence: 41, kind: EVENT, code: -3 });
            payload.add(2).cast::<[u8; 12]>().write(*b"twelve bytes");
        }
        const EVENT: u32 = crate::protocol::EVENT_FAILED;
        word.store(1, Ordering::Release);
        assert!(!exchange.events.is_empty());
        assert_eq!(exchange.events.pop(&mut output), Some(EventHead { sequence: 41, kind: EVENT, code: -3 }));
        assert_eq!(&output, b"twelve bytes");
        assert!(exchange.events.is_empty());
    }
}
