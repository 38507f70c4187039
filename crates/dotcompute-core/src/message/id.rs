//! Message ids: unique across processes, without a random number, a shared atomic or a system call per message.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU128;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "uuid")]
use uuid::Uuid;

/// Names a message among all messages of all processes. Shown as a UUID.
///
/// # What the bits are
///
/// [`MessageId::next`] makes UUIDs of version 8 ([RFC 9562, section 5.8]), whose contents are the maker's own:
///
/// | bits (0 = most significant) | RFC name | here |
/// | --- | --- | --- |
/// | 0-47 | `custom_a` | random, drawn once per process |
/// | 48-51 | `ver` | 8 |
/// | 52-63 | `custom_b` | random, drawn once per process |
/// | 64-65 | `var` | binary 10 |
/// | 66-127 | `custom_c` | a counter |
///
/// Every thread takes 65,536 counter values at a time from the process's counter, so making an id is an increment of
/// a thread-local number. Two processes collide only if they drew the same 60 random bits (among a thousand processes
/// that is one chance in 2 × 10¹²). A forked child draws its own.
///
/// Ids are ordered by process, then by counter. Within one thread that is the order in which they were made; between
/// threads it says nothing about time.
///
/// # Foreign ids
///
/// Every UUID except the nil one is a valid id, so that ids which other programs made pass through unchanged. The nil
/// UUID stands for "none"; that is also how `Option<MessageId>` manages with 16 bytes.
///
/// ```
/// use dotcompute_core::message::MessageId;
/// use uuid::Uuid;
///
/// let id = MessageId::next();
/// assert!(id < MessageId::next());
/// assert_eq!(Uuid::from(id).get_version_num(), 8);
///
/// let foreign = Uuid::parse_str("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")?;
/// assert_eq!(MessageId::try_from(foreign)?.to_string(), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
/// assert!(MessageId::try_from(Uuid::nil()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [RFC 9562, section 5.8]: https://www.rfc-editor.org/rfc/rfc9562#section-5.8
// Aligned to 8 and not 16, so that a header of two ids and a priority fits in 40 bytes and not 48. Two u64 of which one
// is never zero would have the same shape, but there are foreign UUIDs with either half zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct MessageId(NonZeroU128);

const _: () = assert!(size_of::<Option<MessageId>>() == 16 && align_of::<MessageId>() == 8);

/// The nil UUID was given as a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the nil UUID is not a message id, because it stands for \"no message\"; make ids with MessageId::next()"
)]
pub struct NilMessageId;

impl MessageId {
    /// A new id, different from every other.
    #[inline]
    pub fn next() -> Self {
        BLOCK.with(|block| {
            let counter = match block.next.get() {
                next if next < block.end.get() => next,
                _ => block.reserve(),
            };
            block.next.set(counter + 1);
            v8(block.process.get(), counter)
        })
    }

    /// The id's 128 bits as a number, most significant byte first in the UUID's text.
    pub const fn as_u128(self) -> u128 {
        self.0.get()
    }

    /// The id's 16 bytes in the UUID's byte order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.as_u128().to_be_bytes()
    }

    /// The id with these 16 bytes, in the UUID's byte order.
    ///
    /// # Errors
    ///
    /// [`NilMessageId`] if they are all zero.
    pub const fn from_bytes(bytes: [u8; 16]) -> Result<Self, NilMessageId> {
        match NonZeroU128::new(u128::from_be_bytes(bytes)) {
            Some(bits) => Ok(Self(bits)),
            None => Err(NilMessageId),
        }
    }
}

#[cfg(feature = "uuid")]
impl From<MessageId> for Uuid {
    fn from(id: MessageId) -> Self {
        Self::from_u128(id.as_u128())
    }
}

#[cfg(feature = "uuid")]
impl TryFrom<Uuid> for MessageId {
    type Error = NilMessageId;

    fn try_from(uuid: Uuid) -> Result<Self, NilMessageId> {
        Self::from_bytes(uuid.into_bytes())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.as_u128();
        let part = |shift: u32| (bits >> shift) as u16;
        let (high, low) = ((bits >> 96) as u32, bits as u64 & 0xFFFF_FFFF_FFFF);
        write!(f, "{high:08x}-{:04x}-{:04x}-{:04x}-{low:012x}", part(80), part(64), part(48))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// Puts the version and the variant around the process's random bits and a counter value.
#[inline]
fn v8(process: u64, counter: u64) -> MessageId {
    let high = process & !0xF000 | 0x8000;
    let low = counter & (u64::MAX >> 2) | 1 << 63;
    // The variant bit in the low half keeps this from being zero, which the compiler sees: no branch remains.
    match NonZeroU128::new(u128::from(high) << 64 | u128::from(low)) {
        Some(bits) => MessageId(bits),
        None => unreachable!("the variant bit is set"),
    }
}

/// The counter values that a thread may still give out, and the process that they belong to.
// A cell for each number and not one for all: copying them together would load in one piece what was just stored in
// pieces, and a processor cannot forward such a store (measured in a loop: 7.3 ns an id instead of 1.9).
struct Block {
    process: Cell<u64>,
    next: Cell<u64>,
    end: Cell<u64>,
}

impl Block {
    const LEN: u64 = 65_536;

    const fn empty() -> Self {
        Self { process: Cell::new(0), next: Cell::new(0), end: Cell::new(0) }
    }

    /// Takes the next block of the process's counter, and returns its first value.
    #[cold]
    fn reserve(&self) -> u64 {
        self.process.set(process_bits());
        // Relaxed: the addition is atomic, and nothing else is published with it. 62 bits last for 2^46 blocks: a block
        // every microsecond would need two years.
        let next = COUNTER.fetch_add(Self::LEN, Ordering::Relaxed);
        self.end.set(next + Self::LEN);
        next
    }

    /// Gives up what is left of the block.
    #[cfg(unix)]
    fn forget(&self) {
        self.next.set(self.end.get());
    }
}

thread_local! {
    static BLOCK: Block = const { Block::empty() };
}

/// The first counter value that no thread has taken.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The process's random bits; 0 until they are drawn.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// The process's random bits, drawn on the first call.
fn process_bits() -> u64 {
    // Relaxed: the number is all there is to see.
    let known = PROCESS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let random = getrandom::u64().expect("the operating system provides random bytes");
    // Never 0, which means "not drawn". `v8` overwrites this bit with the version.
    let drawn = random | 0x8000;
    #[cfg(unix)]
    fork::forget_in_children();
    match PROCESS.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => drawn,
        // Another thread drew first.
        Err(theirs) => theirs,
    }
}

/// A forked child would go on with its parent's random bits and counter, and repeat the parent's ids.
#[cfg(unix)]
mod fork {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{BLOCK, Block, PROCESS};

    /// From now on, a forked child starts without random bits and without a block.
    pub(super) fn forget_in_children() {
        // Not a `Once`: a child forked while another thread was inside it would wait for that thread for ever.
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if REGISTERED.swap(true, Ordering::Relaxed) {
            return;
        }
        // SAFETY: `forget` lives as long as the program, as a handler must, and it does what a handler in a forked child
        // may do: it stores to an atomic and to a thread-local that needs neither allocation nor destructor. If the call
        // fails, for want of memory, children repeat their parent's ids; nothing worse.
        unsafe { libc::pthread_atfork(None, None, Some(forget)) };
    }

    /// Runs in the child, on the only thread it has.
    extern "C" fn forget() {
        PROCESS.store(0, Ordering::Relaxed);
        BLOCK.with(Block::forget);
    }
}

#[cfg(all(test, feature = "uuid"))]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_a_valid_version_8_uuid() {
        let uuid = Uuid::from(MessageId::next());
        assert_eq!(uuid.get_version_num(), 8);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn keeps_version_and_variant_whatever_the_counter_and_the_random_bits() {
        for (process, counter) in [(0, 0), (u64::MAX, u64::MAX), (0xF000, 1 << 62), (1, u64::MAX >> 2)] {
            let uuid = Uuid::from(v8(process, counter));
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }

    #[test]
    fn threads_never_share_an_id() {
        // More than one block each.
        const EACH: usize = 70_000;
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..EACH).map(|_| MessageId::next()).collect::<Vec<_>>()))
            .collect();
        let mut seen = HashSet::new();
        for thread in threads {
            let ids = thread.join().expect("the thread only makes ids");
            assert!(ids.is_sorted(), "a thread's ids come in order");
            seen.extend(ids);
        }
        assert_eq!(seen.len(), 4 * EACH);
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_makes_ids_of_its_own() {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let parent = MessageId::next().to_bytes();
        // SAFETY: the child calls nothing that could wait for a thread that it lost: making an id takes no lock, and `write` and `_exit` may be called after a fork.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let id = MessageId::next().to_bytes();
            // SAFETY: `id` is 16 readable bytes; `_exit` leaves without running the parent's destructors.
            unsafe {
                libc::write(ends[1], id.as_ptr().cast(), id.len());
                libc::_exit(0);
            }
        }
        assert!(child > 0, "fork failed");
        let mut theirs = [0_u8; 16];
        // SAFETY: `theirs` has room for 16 bytes, and `child` is our child, waited for once.
        unsafe {
            assert_eq!(libc::read(ends[0], theirs.as_mut_ptr().cast(), 16), 16);
            libc::waitpid(child, std::ptr::null_mut(), 0);
            libc::close(ends[0]);
            libc::close(ends[1]);
        }
        assert_ne!(parent[..8], theirs[..8], "the child drew its own random bits");
        assert_eq!(parent[..8], MessageId::next().to_bytes()[..8], "the parent kept its own");
    }

    #[test]
    fn the_nil_uuid_is_refused_and_the_largest_is_not() {
        assert_eq!(MessageId::try_from(Uuid::nil()), Err(NilMessageId));
        let largest = MessageId::try_from(Uuid::max()).expect("only nil is refused");
        assert_eq!(Uuid::from(largest), Uuid::max());
        assert_ne!(Some(largest), None);
    }

    proptest! {
        #[test]
        fn foreign_ids_survive_a_round_trip(bits in 1_u128..) {
            let uuid = Uuid::from_u128(bits);
            let id = MessageId::try_from(uuid).expect("not nil");
            prop_assert_eq!(Uuid::from(id), uuid);
            prop_assert_eq!(std::hint::black_box(Some(id)).map(MessageId::as_u128), Some(bits));
            prop_assert_eq!(id.to_string(), uuid.to_string());
            prop_assert_eq!(MessageId::from_bytes(id.to_bytes()), Ok(id));
        }

        #[test]
        fn halves_that_are_zero_are_no_obstacle(half in 1_u64..) {
            for bits in [u128::from(half), u128::from(half) << 64] {
                let id = MessageId::try_from(Uuid::from_u128(bits)).expect("not nil");
                prop_assert_eq!(std::hint::black_box(Some(id)).map(MessageId::as_u128), Some(bits));
            }
        }
    }
}
