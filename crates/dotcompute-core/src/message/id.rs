//! Message ids: unique across processes, without a random number, a shared atomic operation or a system call per id.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU128;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "uuid")]
use uuid::Uuid;

/// Id of a message, unique among all processes. Displayed as a UUID.
///
/// # Layout
///
/// [`MessageId::next`] returns UUIDs of version 8 ([RFC 9562, section 5.8]), whose content is implementation-specific:
///
/// | bits (0 = most significant) | RFC name | content |
/// | --- | --- | --- |
/// | 0-47 | `custom_a` | random, drawn once per process |
/// | 48-51 | `ver` | 8 |
/// | 52-63 | `custom_b` | random, drawn once per process |
/// | 64-65 | `var` | binary 10 |
/// | 66-127 | `custom_c` | a counter |
///
/// A thread reserves 65,536 values of the process's counter at a time, so creating an id increments a thread-local number. Two processes
/// collide only if they draw the same 60 random bits; among a thousand processes the probability is 1 in 2 × 10¹². A forked child draws
/// its own bits.
///
/// Ids are ordered by process, then by counter. Within one thread this is the order of creation. Between threads the order is unrelated to
/// time.
///
/// # Foreign ids
///
/// Every UUID except the nil UUID is a valid id, so ids of other programs are preserved. The nil UUID means "none", which also gives
/// `Option<MessageId>` a size of 16 bytes. The conversions from and to `uuid::Uuid` need the feature `uuid`.
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
// Aligned to 8 instead of 16, so that a header of two ids and a priority has 40 bytes instead of 48. A pair of a `u64` and a `NonZeroU64`
// would also do, but either half of a foreign UUID may be zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct MessageId(NonZeroU128);

const _: () = assert!(size_of::<Option<MessageId>>() == 16 && align_of::<MessageId>() == 8);

/// The error of converting the nil UUID to a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "converting a UUID to a message id: the nil UUID means \"no message\"; create ids with MessageId::next()"
)]
pub struct NilMessageId;

impl MessageId {
    /// Returns a new id, different from every other.
    #[inline]
    pub fn next() -> Self {
        BLOCK.with(|block| {
            let counter = match block.next.get() {
                next if next < block.end.get() => next,
                _ => block.reserve(),
            };
            block.next.set(counter + 1);
            uuid_v8(block.process.get(), counter)
        })
    }

    /// Returns the id as a number. Its most significant byte is the first of the UUID's text.
    pub const fn as_u128(self) -> u128 {
        self.0.get()
    }

    /// Returns the 16 bytes of the id in the UUID's byte order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.as_u128().to_be_bytes()
    }

    /// Creates an id from 16 bytes in the UUID's byte order.
    ///
    /// # Errors
    ///
    /// [`NilMessageId`] if all bytes are zero.
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

/// Combines the version and the variant with the process's random bits and a counter value.
#[inline]
fn uuid_v8(process: u64, counter: u64) -> MessageId {
    let high = process & !0xF000 | 0x8000;
    let low = counter & (u64::MAX >> 2) | 1 << 63;
    // The variant bit in `low` is set, so the compiler proves this nonzero and removes the branch.
    match NonZeroU128::new(u128::from(high) << 64 | u128::from(low)) {
        Some(bits) => MessageId(bits),
        None => unreachable!("the variant bit is set"),
    }
}

/// Counter values that a thread has reserved and not used yet, with the process's random bits.
// One cell per number: a copy of all three would be one wide load right after narrow stores, which defeats store-to-load forwarding
// (measured in a loop: 7.3 ns instead of 1.9 ns per id).
struct CounterBlock {
    process: Cell<u64>,
    next: Cell<u64>,
    end: Cell<u64>,
}

impl CounterBlock {
    const LEN: u64 = 65_536;

    const fn empty() -> Self {
        Self { process: Cell::new(0), next: Cell::new(0), end: Cell::new(0) }
    }

    /// Reserves the next block of the process's counter and returns its first value.
    #[cold]
    fn reserve(&self) -> u64 {
        self.process.set(process_bits());
        // Relaxed: the addition is atomic and publishes nothing else. 62 bits suffice for 2^46 blocks. At one block per microsecond, that
        // is two years.
        let next = COUNTER.fetch_add(Self::LEN, Ordering::Relaxed);
        self.end.set(next + Self::LEN);
        next
    }

    /// Discards the rest of the block.
    #[cfg(unix)]
    fn discard(&self) {
        self.next.set(self.end.get());
    }
}

thread_local! {
    static BLOCK: CounterBlock = const { CounterBlock::empty() };
}

/// The first counter value that no thread has reserved.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The process's random bits; 0 before the first draw.
static PROCESS: AtomicU64 = AtomicU64::new(0);

/// Returns the process's random bits; the first call draws them.
fn process_bits() -> u64 {
    // Relaxed: no other data is published with the bits.
    let drawn_before = PROCESS.load(Ordering::Relaxed);
    if drawn_before != 0 {
        return drawn_before;
    }
    let random = getrandom::u64().expect("the operating system provides random bytes");
    // Never 0, which means "not drawn". `uuid_v8` overwrites this bit with the version.
    let drawn = random | 0x8000;
    #[cfg(unix)]
    fork::reset_in_children();
    match PROCESS.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => drawn,
        // Another thread drew first.
        Err(first) => first,
    }
}

/// Resets the state of ids in forked children, which would otherwise repeat their parent's ids.
#[cfg(unix)]
mod fork {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{BLOCK, CounterBlock, PROCESS};

    /// Registers a handler that clears the random bits and the block of each forked child.
    pub(super) fn reset_in_children() {
        // Not a `Once`: a child forked while another thread is inside would block on it forever.
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if REGISTERED.swap(true, Ordering::Relaxed) {
            return;
        }
        // SAFETY: `reset` is a function item, so the pointer stays valid. It is async-signal-safe, as a handler in a forked child must be:
        // it stores to an atomic and to a thread-local without allocation or destructor. If the call fails for lack of memory, children
        // repeat their parent's ids, which is not a memory error.
        unsafe { libc::pthread_atfork(None, None, Some(reset)) };
    }

    /// Runs in the child, on its only thread.
    extern "C" fn reset() {
        PROCESS.store(0, Ordering::Relaxed);
        BLOCK.with(CounterBlock::discard);
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
    fn version_and_variant_do_not_depend_on_the_counter_and_the_random_bits() {
        for (process, counter) in [(0, 0), (u64::MAX, u64::MAX), (0xF000, 1 << 62), (1, u64::MAX >> 2)] {
            let uuid = Uuid::from(uuid_v8(process, counter));
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }

    #[test]
    fn threads_never_share_an_id() {
        // More than one block per thread.
        const EACH: usize = 70_000;
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..EACH).map(|_| MessageId::next()).collect::<Vec<_>>()))
            .collect();
        let mut seen = HashSet::new();
        for thread in threads {
            let ids = thread.join().expect("the thread only creates ids");
            assert!(ids.is_sorted(), "the ids of a thread are ordered");
            seen.extend(ids);
        }
        assert_eq!(seen.len(), 4 * EACH);
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_draws_its_own_random_bits() {
        let mut ends = [0; 2];
        // SAFETY: `ends` has space for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let parent = MessageId::next().to_bytes();
        // SAFETY: the child calls only async-signal-safe code: creating an id takes no lock, and `write` and `_exit` are permitted after
        // `fork`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let id = MessageId::next().to_bytes();
            // SAFETY: `id` has 16 readable bytes; `_exit` does not run the parent's destructors.
            unsafe {
                libc::write(ends[1], id.as_ptr().cast(), id.len());
                libc::_exit(0);
            }
        }
        assert!(child > 0, "fork failed");
        let mut child_id = [0_u8; 16];
        // SAFETY: `child_id` has space for 16 bytes; `child` is a child of this process that is waited for once.
        unsafe {
            assert_eq!(libc::read(ends[0], child_id.as_mut_ptr().cast(), 16), 16);
            libc::waitpid(child, std::ptr::null_mut(), 0);
            libc::close(ends[0]);
            libc::close(ends[1]);
        }
        assert_ne!(parent[..8], child_id[..8], "the child has its own random bits");
        assert_eq!(parent[..8], MessageId::next().to_bytes()[..8], "the parent still has its own");
    }

    #[test]
    fn only_the_nil_uuid_is_rejected() {
        assert_eq!(MessageId::try_from(Uuid::nil()), Err(NilMessageId));
        let largest = MessageId::try_from(Uuid::max()).expect("not nil");
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
        fn either_half_may_be_zero(half in 1_u64..) {
            for bits in [u128::from(half), u128::from(half) << 64] {
                let id = MessageId::try_from(Uuid::from_u128(bits)).expect("not nil");
                prop_assert_eq!(std::hint::black_box(Some(id)).map(MessageId::as_u128), Some(bits));
            }
        }
    }
}
