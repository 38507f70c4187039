//! The shared memory of a queue: a header with the owners of the endpoints, and the ring.
//!
//! ```text
//! byte 0     magic, version, size of a slot, size of the ring     written once; the magic last
//!      128   owner words: the processes that own the producer and the consumer endpoint, and the one that created the queue
//!      256   parking word of the consumer
//!      384   parking word of the producer
//!      512   number of messages ever pushed; written by the producer
//!      640   number of messages ever popped; written by the consumer
//!      768   the ring, in the layout of `dotcompute_ring::layout`
//! ```

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dotcompute_ring::layout::CACHE_LINE;
use rustix::fs::{Mode, fstat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::shm::{self, OFlags};

use super::frame::{SlotClass, max_slot_size};
use super::owner_process::Process;
use super::parking::ParkingWord;

const MAGIC: u64 = u64::from_le_bytes(*b"DCQUEUE\0");
const VERSION: u32 = 2;

/// A counter on a cache line of its own.
#[repr(C, align(128))]
pub(super) struct CounterLine(pub(super) AtomicU64);

/// The header before the ring.
#[repr(C, align(128))]
pub(super) struct SegmentHeader {
    magic: AtomicU64,
    version: AtomicU32,
    stride: AtomicU32,
    ring_bytes: AtomicU64,
    pub(super) owners: OwnerWords,
    pub(super) consumer_parking: ParkingWord,
    pub(super) producer_parking: ParkingWord,
    pub(super) pushed: CounterLine,
    pub(super) popped: CounterLine,
}

/// Owners of the endpoints and of the name, as words of [`Process`]. 0 without an owner.
#[repr(C, align(128))]
pub(super) struct OwnerWords {
    pub(super) producer: AtomicU64,
    pub(super) consumer: AtomicU64,
    /// The process that created the queue, until it closes it.
    pub(super) creator: AtomicU64,
}

const _: () = {
    assert!(offset_of!(SegmentHeader, owners) == CACHE_LINE);
    assert!(size_of::<SegmentHeader>() == 6 * CACHE_LINE);
};

/// A mapped queue.
pub(super) struct Segment {
    memory: NonNull<u8>,
    len: usize,
    pub(super) class: &'static SlotClass,
    pub(super) name: String,
}

// SAFETY: the memory stays mapped while the `Segment` exists. Accesses to it are atomic, or follow the protocol of the ring, which passes
// slots between threads.
unsafe impl Send for Segment {}
// SAFETY: shared references access the memory in the same two ways, atomically or by the protocol of the ring.
unsafe impl Sync for Segment {}

/// Mapped memory and its size. Dropping it unmaps the memory.
struct Mapping(NonNull<u8>, usize);

impl Mapping {
    fn of(file: &rustix::fd::OwnedFd, len: usize) -> Result<Self, Errno> {
        // SAFETY: with a null address the kernel chooses a free range, so the call replaces no mapping.
        let memory = unsafe {
            mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        NonNull::new(memory.cast()).map(|memory| Self(memory, len)).ok_or(Errno::NOMEM)
    }

    fn header(&self) -> &SegmentHeader {
        // SAFETY: mapped memory is aligned to pages, and both callers ensure that it is at least as long as a header. The header consists
        // of atomics, for which every bit pattern is valid.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `of` mapped this memory, and nothing else unmaps it. The owner of the mapping is being dropped, so no reference into the
        // memory exists.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast::<c_void>(), self.1) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Text of an error.
type Failure = String;

fn path_of(name: &str) -> Result<String, Failure> {
    if name.is_empty() || name.len() > 200 || name.contains(['/', '\0']) {
        return Err(format!("{name:?} is not a valid name; use 1 to 200 bytes without slash and NUL"));
    }
    Ok(format!("/{name}"))
}

/// Allocates the memory now: with lazy allocation, a full file system would raise SIGBUS on a later access.
fn reserve(file: &rustix::fd::OwnedFd, len: usize) -> Result<(), Errno> {
    rustix::fs::ftruncate(file, len as u64)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len as u64)?;
    Ok(())
}

impl Segment {
    /// Creates a queue for `capacity` messages (rounded up to a power of two) of up to `slot_size` bytes.
    pub(super) fn create(name: &str, capacity: usize, slot_size: usize) -> Result<Self, Failure> {
        let path = path_of(name)?;
        let Some(class) = SlotClass::for_messages(slot_size) else {
            return Err(format!(
                "slot_size={slot_size} is more than the maximum of {} bytes",
                max_slot_size()
            ));
        };
        let ring_bytes = (class.required_bytes)(capacity).map_err(|error| error.to_string())?;
        let len = size_of::<SegmentHeader>() + ring_bytes;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = shm::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
            Errno::EXIST => {
                "the name is in use; attach to that queue, remove it with SharedQueue.remove(), or use another name".into()
            }
            error => error.to_string(),
        })?;
        let created = reserve(&file, len).and_then(|()| Mapping::of(&file, len));
        let created = created.map_err(|error| format!("allocating {len} bytes of shared memory: {error}"));
        let created =
            created.and_then(|mapping| Self::initialize(mapping, class, name, capacity, ring_bytes));
        if created.is_err() {
            // Best effort: the first error is the one to report.
            let _ = shm::unlink(&path);
        }
        created
    }

    fn initialize(
        mapping: Mapping,
        class: &'static SlotClass,
        name: &str,
        capacity: usize,
        ring_bytes: usize,
    ) -> Result<Self, Failure> {
        // SAFETY: the mapping has the size of the header plus `ring_bytes`, so the offset is within it.
        let ring = unsafe { mapping.0.add(size_of::<SegmentHeader>()) };
        // SAFETY: `ring_bytes` bytes follow the header in this new mapping. No other process uses them before the magic is stored.
        unsafe { (class.create)(ring, ring_bytes, capacity) }.map_err(|error| error.to_string())?;
        let header = mapping.header();
        header.version.store(VERSION, Ordering::Relaxed);
        header.stride.store(class.stride as u32, Ordering::Relaxed);
        header.ring_bytes.store(ring_bytes as u64, Ordering::Relaxed);
        header.owners.creator.store(Process::current().word(), Ordering::Relaxed);
        // SYNC POINT: queue magic
        // Release: pairs with the acquire load in `check`; publishes the header and the ring.
        header.magic.store(MAGIC, Ordering::Release);
        Ok(Self::of(mapping, class, name))
    }

    fn of(mapping: Mapping, class: &'static SlotClass, name: &str) -> Self {
        let segment = Self { memory: mapping.0, len: mapping.1, class, name: name.to_owned() };
        std::mem::forget(mapping);
        segment
    }

    /// Maps an existing queue.
    pub(super) fn attach(name: &str) -> Result<Self, Failure> {
        let path = path_of(name)?;
        let file = shm::open(&path, OFlags::RDWR, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => {
                "no queue has this name; create it first, and keep it open until the other process has attached"
                    .into()
            }
            error => error.to_string(),
        })?;
        let size = fstat(&file).map_err(|error| error.to_string())?.st_size;
        let len = usize::try_from(size).unwrap_or(0);
        if len < size_of::<SegmentHeader>() {
            return Err(format!(
                "its size of {len} bytes is too small for a queue; it is not a queue, or still being created: try again"
            ));
        }
        let mapping = Mapping::of(&file, len).map_err(|error| format!("mapping it: {error}"))?;
        let class = Self::check(mapping.header(), len)?;
        let segment = Self::of(mapping, class, name);
        segment.check_ring()?;
        Ok(segment)
    }

    /// Checks the header of a queue of `len` bytes and returns its slot class.
    fn check(header: &SegmentHeader, len: usize) -> Result<&'static SlotClass, Failure> {
        // SYNC POINT: queue magic
        // Acquire: pairs with the release store in `initialize`. This load comes before those of the other fields.
        let magic = header.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(format!(
                "it is not a queue: it begins with {magic:#018x}, expected {MAGIC:#018x}; use another name"
            ));
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(format!(
                "it has layout version {version}, expected {VERSION}; use the same version of pydotcompute in both processes"
            ));
        }
        let stride = header.stride.load(Ordering::Relaxed);
        let class = SlotClass::of_stride(stride as usize);
        let class = class.ok_or_else(|| {
            format!("its header names slots of {stride} bytes; it is damaged, create it again")
        })?;
        let ring_bytes = header.ring_bytes.load(Ordering::Relaxed);
        if ring_bytes != (len - size_of::<SegmentHeader>()) as u64 || ring_bytes < 4 * CACHE_LINE as u64 {
            return Err(format!(
                "its size is {len} bytes, but its header names a ring of {ring_bytes}; it is damaged or cut short, create it again"
            ));
        }
        Ok(class)
    }

    /// Checks the header of the ring. Attaching an endpoint checks it again.
    fn check_ring(&self) -> Result<(), Failure> {
        let capacity = self.capacity();
        let required = (self.class.required_bytes)(capacity).map_err(|error| error.to_string())?;
        if !capacity.is_power_of_two() || required != self.ring_bytes() {
            return Err(format!(
                "its ring header names {capacity} slots, which do not match its size; it is damaged, create it again"
            ));
        }
        Ok(())
    }

    pub(super) fn header(&self) -> &SegmentHeader {
        // SAFETY: the memory is mapped while `self` exists and at least as long as a header (`create`, `attach`). The header consists of
        // atomics.
        unsafe { self.memory.cast().as_ref() }
    }

    /// Start of the ring.
    pub(super) fn ring(&self) -> NonNull<u8> {
        // SAFETY: the mapping is longer than the header (`create`, `check`).
        unsafe { self.memory.add(size_of::<SegmentHeader>()) }
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.len - size_of::<SegmentHeader>()
    }

    /// Maximum number of messages.
    pub(super) fn capacity(&self) -> usize {
        let offset = offset_of!(dotcompute_ring::layout::Header, capacity);
        // SAFETY: every ring begins with a `Header`, so the field is within the mapping and aligned. The access is atomic, since another
        // process may write to it.
        let capacity = unsafe { self.ring().add(offset).cast::<AtomicU64>().as_ref() };
        usize::try_from(capacity.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Number of messages in the ring.
    pub(super) fn messages(&self) -> usize {
        // Load `popped` first: an outdated value makes the result too large, never negative. Acquire keeps the load of `pushed` after it.
        let popped = self.header().popped.0.load(Ordering::Acquire);
        let pushed = self.header().pushed.0.load(Ordering::Acquire);
        (pushed.saturating_sub(popped) as usize).min(self.capacity())
    }

    /// Unlinks the name, so that no other process can attach. Returns whether the name existed.
    pub(super) fn remove(name: &str) -> Result<bool, Failure> {
        match shm::unlink(path_of(name)?) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        drop(Mapping(self.memory, self.len));
    }
}
