//! The host-device channel: memory that the host and the device of one ring kernel share. It holds the control block, the input ring
//! and the event ring.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dotcompute_ring::layout::CACHE_LINE;
use dotcompute_ring::record::{self, RecordError};
use dotcompute_ring::spsc::{Consumer, Producer};

use crate::protocol::{Control, EventHeader, InputHeader, Ring};

/// Slots of the event ring.
pub(crate) const EVENT_RING_CAPACITY: usize = 256;

/// Bytes before a ring's slots: its control lines.
const SLOTS_OFFSET: usize = 4 * CACHE_LINE;
/// Bytes before a slot's payload: its sequence tag.
const SEQ_BYTES: usize = size_of::<u64>();

/// Zeroed memory that host and device both address, aligned to [`CACHE_LINE`]. It stays allocated until the value is dropped.
///
/// # Safety
///
/// `base` returns the address of `len` bytes that are readable and writable for as long as the value lives.
pub(crate) unsafe trait SharedMemory: Send + Sync {
    /// Returns the host address.
    fn base(&self) -> NonNull<u8>;
    /// Returns the size in bytes.
    fn len(&self) -> usize;
    /// Returns the device address.
    fn device_base(&self) -> u64;
}

/// The offsets of the control block and the rings in the channel's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelLayout {
    input: RingRegion,
    events: RingRegion,
    queue_capacity: usize,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct RingRegion {
    offset: usize,
    bytes: usize,
    /// 64-bit words of a payload.
    words: usize,
}

impl RingRegion {
    /// Returns the bytes from one slot to the next.
    fn stride(self) -> usize {
        SEQ_BYTES + 8 * self.words
    }
}

/// Payload sizes in 64-bit words. A slot of such a payload and its sequence tag fills a power of two of bytes, from 64 to 4096.
const SLOT_CLASSES: [usize; 7] = [7, 15, 31, 63, 127, 255, 511];

/// Why a channel cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("its {what} has {bytes} bytes, and a slot holds at most {max}; send large data by handle")]
    TooLarge { what: &'static str, bytes: usize, max: usize },
    #[error("its ring: {0}")]
    Ring(#[from] RecordError),
}

/// Returns the smallest slot class that holds a header of `header` bytes and `bytes` bytes after it.
fn slot_class(what: &'static str, header: usize, bytes: usize) -> Result<usize, ChannelError> {
    let holds = |words: &usize| words * 8 >= header + bytes;
    let max = SLOT_CLASSES[SLOT_CLASSES.len() - 1] * 8 - header;
    SLOT_CLASSES.iter().copied().find(holds).ok_or(ChannelError::TooLarge { what, bytes, max })
}

/// Calls `$what::<N>` for the slot class `$words`.
macro_rules! dispatch_slot_class {
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

impl ChannelLayout {
    /// Computes the layout for these sizes of messages and outputs, and an input ring of `queue_capacity` messages.
    pub(crate) fn new(
        input_size: usize,
        output_size: usize,
        queue_capacity: usize,
    ) -> Result<Self, ChannelError> {
        let region = |offset: usize, words: usize, slots: usize| {
            let bytes = dispatch_slot_class!(words, ring_bytes(slots))?;
            Ok::<_, ChannelError>(RingRegion { offset, bytes, words })
        };
        // An event carries an output, or returns a message that came over a link.
        let header = size_of::<EventHeader>();
        let words =
            slot_class("message", header, input_size)?.max(slot_class("output", header, output_size)?);
        let input_words = slot_class("message", size_of::<InputHeader>(), input_size)?;
        let input = region(size_of::<Control>(), input_words, queue_capacity)?;
        let events_offset = (input.offset + input.bytes).next_multiple_of(CACHE_LINE);
        let events = region(events_offset, words, EVENT_RING_CAPACITY)?;
        Ok(Self { input, events, queue_capacity, bytes: events.offset + events.bytes })
    }

    /// Returns the size of the channel's memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn ring_bytes<const N: usize>(slots: usize) -> Result<usize, RecordError> {
    Ok(record::required_bytes::<[u64; N]>(slots)?)
}

/// The host's producer of the input ring, for any slot class.
pub(crate) trait MessageProducer: Send {
    /// Posts a message. Returns false if the ring is full.
    fn push(&mut self, header: InputHeader, message: &[u8]) -> bool;
    /// Returns the number of messages posted.
    fn pushed(&self) -> u64;
    /// Returns the number of messages that the device has completed.
    fn popped(&self) -> u64;
    /// Returns the number of slots.
    fn capacity(&self) -> usize;
}

impl<const N: usize> MessageProducer for Producer<[u64; N]> {
    fn push(&mut self, header: InputHeader, message: &[u8]) -> bool {
        let mut cell = [0; N];
        cell[0] = u64::from(header.wants_reply) | u64::from(header.priority) << 32;
        write_payload(&mut cell[1..], message);
        // SYNC POINT: input slot publish
        // `try_push` stores the slot's sequence tag with release. Pairs with `acquire_sys` in `Leader::next_source` (leader.cuh) and in
        // `ThreadShape::run` (ring_kernel.cuh); publishes the payload.
        self.try_push(cell).is_ok()
    }

    fn pushed(&self) -> u64 {
        Producer::pushed(self)
    }

    fn popped(&self) -> u64 {
        // SYNC POINT: input head publish
        // `popped` loads the head with acquire. Pairs with the release store in `Leader::finish` (leader.cuh): the events of every message
        // below the head are visible after the load.
        Producer::popped(self)
    }

    fn capacity(&self) -> usize {
        Producer::capacity(self)
    }
}

/// Copies bytes into words, in memory order.
fn write_payload(words: &mut [u64], bytes: &[u8]) {
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
}

/// The host's consumer of the event ring, for any slot class.
pub(crate) trait EventConsumer: Send {
    /// Pops the next event and copies the bytes of its output to `output`.
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHeader>;
    /// Returns the event tag of the next event: [`EventHeader::sequence`].
    fn next_sequence(&mut self) -> Option<u64>;
    fn is_empty(&self) -> bool;
    /// Returns the number of events popped.
    fn popped(&self) -> u64;
}

impl<const N: usize> EventConsumer for Consumer<[u64; N]> {
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHeader> {
        // SYNC POINT: event slot publish
        // `try_pop` acquires the slot's sequence tag. Pairs with the release store in `EventSender::send` (ring.cuh).
        // SYNC POINT: event ring full
        // `try_pop` publishes its head with release. Pairs with `acquire_sys` in `EventSender::wait_for_slot` (ring.cuh): the slot has been
        // read before the device writes it again.
        let cell = self.try_pop()?;
        for (bytes, word) in output.chunks_mut(8).zip(&cell[2..]) {
            bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
        }
        let [kind, code] = [cell[1] as u32, (cell[1] >> 32) as u32];
        Some(EventHeader { sequence: cell[0], kind, code: code.cast_signed() })
    }

    fn next_sequence(&mut self) -> Option<u64> {
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
compile_error!("the headers are packed for little-endian machines, the only ones that CUDA supports");

/// The channel of one ring kernel, with the host's producer and consumer.
pub(crate) struct HostDeviceChannel {
    pub(crate) memory: Arc<ChannelMemory>,
    pub(crate) messages: Box<dyn MessageProducer>,
    pub(crate) events: Box<dyn EventConsumer>,
}

/// The memory of a channel, for access to single words.
pub(crate) struct ChannelMemory {
    backing: Arc<dyn SharedMemory>,
    layout: ChannelLayout,
}

impl HostDeviceChannel {
    /// Creates the rings in `backing`, which no other code uses yet.
    pub(crate) fn new(backing: Arc<dyn SharedMemory>, layout: ChannelLayout) -> Result<Self, ChannelError> {
        let memory = Arc::new(ChannelMemory { backing, layout });
        let messages = dispatch_slot_class!(layout.input.words, message_producer(&memory))?;
        let events = dispatch_slot_class!(layout.events.words, event_consumer(&memory))?;
        Ok(Self { memory, messages, events })
    }
}

/// A producer or consumer that keeps its memory allocated. `end` is declared first, since fields are dropped in declaration order.
struct KeepAlive<E> {
    end: E,
    _memory: Arc<ChannelMemory>,
}

impl<E: MessageProducer> MessageProducer for KeepAlive<E> {
    fn push(&mut self, header: InputHeader, message: &[u8]) -> bool {
        self.end.push(header, message)
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

impl<E: EventConsumer> EventConsumer for KeepAlive<E> {
    fn pop(&mut self, output: &mut [u8]) -> Option<EventHeader> {
        self.end.pop(output)
    }
    fn next_sequence(&mut self) -> Option<u64> {
        self.end.next_sequence()
    }
    fn is_empty(&self) -> bool {
        self.end.is_empty()
    }
    fn popped(&self) -> u64 {
        self.end.popped()
    }
}

fn message_producer<const N: usize>(
    memory: &Arc<ChannelMemory>,
) -> Result<Box<dyn MessageProducer>, ChannelError> {
    let RingRegion { offset, bytes, .. } = memory.layout.input;
    let base = memory.at(offset);
    // SAFETY: the layout's regions are disjoint and within the memory, which `KeepAlive` keeps allocated. `HostDeviceChannel::new` requires
    // memory that no other code uses. The device is the only consumer, and follows the protocol.
    unsafe {
        record::create::<[u64; N]>(base, bytes, memory.layout.queue_capacity)?;
        Ok(Box::new(KeepAlive {
            end: record::producer::<[u64; N]>(base, bytes)?,
            _memory: Arc::clone(memory),
        }))
    }
}

fn event_consumer<const N: usize>(
    memory: &Arc<ChannelMemory>,
) -> Result<Box<dyn EventConsumer>, ChannelError> {
    let RingRegion { offset, bytes, .. } = memory.layout.events;
    let base = memory.at(offset);
    // SAFETY: as for `message_producer`: a disjoint region of unused memory that `KeepAlive` keeps allocated. The device is the only
    // producer.
    unsafe {
        record::create::<[u64; N]>(base, bytes, EVENT_RING_CAPACITY)?;
        Ok(Box::new(KeepAlive {
            end: record::consumer::<[u64; N]>(base, bytes)?,
            _memory: Arc::clone(memory),
        }))
    }
}

impl ChannelMemory {
    fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < self.backing.len(), "the layout fits the memory");
        // SAFETY: `offset` comes from the layout, and the memory was allocated with the layout's size.
        unsafe { self.backing.base().add(offset) }
    }

    /// Returns the control block.
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the layout reserves the first bytes of the memory for a `Control`. The memory is aligned to a cache line and starts
        // zeroed, which is a valid `Control`; all of its words are atomics, and both sides use it as a `Control` only.
        unsafe { self.at(0).cast::<Control>().as_ref() }
    }

    /// Returns the number of messages from links whose handler failed.
    pub(crate) fn linked_failed(&self) -> u64 {
        // SYNC POINT: link counts
        // Relaxed: the device writes it before `handled`, which callers have loaded with acquire.
        self.control().device.linked_failed.load(Ordering::Relaxed)
    }

    /// Returns the number of messages from the host that the device has completed.
    pub(crate) fn done(&self) -> u64 {
        // SAFETY: the head of the input ring, at the beginning of its third control line: an aligned `u64` within the region, which both
        // sides access only as an atomic.
        let head = unsafe { self.at(self.layout.input.offset + 2 * CACHE_LINE).cast::<AtomicU64>().as_ref() };
        head.load(Ordering::Relaxed)
    }

    /// Returns the sequence tag of the slot of event `sequence`.
    pub(crate) fn event_seq(&self, sequence: u64) -> &AtomicU64 {
        let region @ RingRegion { offset, .. } = self.layout.events;
        let index = (sequence as usize) & (EVENT_RING_CAPACITY.next_power_of_two() - 1);
        // SAFETY: `index` is masked to the capacity that `record::create` was given, so the address is within the region. It is an aligned
        // `u64`, which both sides access only as an atomic.
        unsafe { self.at(offset + SLOTS_OFFSET + index * region.stride()).cast().as_ref() }
    }

    /// Returns the device address of the control block.
    pub(crate) fn device_control(&self) -> u64 {
        self.backing.device_base()
    }

    /// Returns the input ring as the device addresses it.
    pub(crate) fn device_input(&self) -> Ring {
        self.device_ring(self.layout.input, self.layout.queue_capacity)
    }

    /// Returns the event ring as the device addresses it.
    pub(crate) fn device_events(&self) -> Ring {
        self.device_ring(self.layout.events, EVENT_RING_CAPACITY)
    }

    fn device_ring(&self, region: RingRegion, slots: usize) -> Ring {
        Self::ring_at(self.backing.device_base() + region.offset as u64, region, slots)
    }

    fn ring_at(control: u64, region: RingRegion, slots: usize) -> Ring {
        Ring { control, mask: slots.next_power_of_two() as u64 - 1, stride: region.stride() as u64 }
    }

    /// Returns the bytes that a link to this ring kernel takes, for `slots` messages (a power of two).
    pub(crate) fn link_bytes(&self, slots: usize) -> usize {
        SLOTS_OFFSET + slots * self.layout.input.stride()
    }

    /// Returns the ring of a link to this ring kernel, in zeroed device memory at `address`.
    pub(crate) fn link_ring(&self, address: u64, slots: usize) -> Ring {
        Self::ring_at(address, self.layout.input, slots)
    }

    /// Returns the offset of the slot of message `sequence` in the memory of a link.
    pub(crate) fn link_slot(ring: Ring, sequence: u64) -> usize {
        SLOTS_OFFSET + ((sequence & ring.mask) * ring.stride) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulated::host_memory::HostMemory;

    fn channel(input: usize, output: usize, queue: usize) -> HostDeviceChannel {
        let layout = ChannelLayout::new(input, output, queue).unwrap();
        HostDeviceChannel::new(Arc::new(HostMemory::zeroed(layout.bytes())), layout).unwrap()
    }

    #[test]
    fn the_smallest_slot_class_that_fits_is_used() {
        for (bytes, words) in [(1, 7), (48, 7), (49, 15), (112, 15), (4080, 511)] {
            assert_eq!(slot_class("message", 8, bytes).unwrap(), words);
        }
        let error = ChannelLayout::new(4073, 8, 8).unwrap_err().to_string();
        assert!(error.contains("message has 4073 bytes") && error.contains("at most 4072"), "{error}");
        assert!(ChannelLayout::new(8, 4073, 8).unwrap_err().to_string().contains("at most 4072"));
        assert!(ChannelLayout::new(8, 8, 0).is_err());
    }

    #[test]
    fn a_full_ring_rejects_messages() {
        let mut channel = channel(100, 8, 3);
        let header = InputHeader { wants_reply: 1, priority: 200 };
        assert_eq!(channel.messages.capacity(), 4, "rounded up");
        assert!((0..4).all(|_| channel.messages.push(header, &[7; 100])));
        assert!(!channel.messages.push(header, &[7; 100]));
        assert_eq!((channel.messages.pushed(), channel.messages.popped()), (4, 0));
    }

    #[test]
    fn an_event_is_read_as_the_device_wrote_it() {
        let mut channel = channel(8, 12, 4);
        let mut output = [0; 12];
        assert_eq!(channel.events.pop(&mut output), None);
        let seq = channel.memory.event_seq(0);
        // SAFETY: the payload follows the sequence tag of the first slot, within the ring. The consumer does not read it before the store
        // to `seq` below.
        unsafe {
            let payload = std::ptr::from_ref(seq).add(1).cast_mut();
            payload.cast::<EventHeader>().write(EventHeader { sequence: 41, kind: EVENT, code: -3 });
            payload.add(2).cast::<[u8; 12]>().write(*b"twelve bytes");
        }
        const EVENT: u32 = crate::protocol::EVENT_FAILED;
        seq.store(1, Ordering::Release);
        assert!(!channel.events.is_empty());
        assert_eq!(
            channel.events.pop(&mut output),
            Some(EventHeader { sequence: 41, kind: EVENT, code: -3 })
        );
        assert_eq!(&output, b"twelve bytes");
        assert!(channel.events.is_empty());
    }
}
