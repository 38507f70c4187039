//! A queue's shared memory: a header, who has which end, and the ring.
//!
//! ```text
//! byte 0     magic, version, bytes of a slot, bytes of the ring     written once; the magic last
//!      128   owners     which process has the producer's and which the consumer's end
//!      256   bed        whether the consumer sleeps
//!      384   bed        whether the producer sleeps
//!      512   messages put in, ever; written by the producer
//!      640   messages taken, ever; written by the consumer
//!      768   the ring, as `dotcompute_ring::layout` says
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

use super::frame::{Class, largest};
use super::parking::Bed;

const MAGIC: u64 = u64::from_le_bytes(*b"DCQUEUE\0");
const VERSION: u32 = 1;

/// A word on a line of its own.
#[repr(C, align(128))]
pub(super) struct Line(pub(super) AtomicU64);

/// What lies before the ring.
#[repr(C, align(128))]
pub(super) struct Head {
    magic: AtomicU64,
    version: AtomicU32,
    stride: AtomicU32,
    ring_bytes: AtomicU64,
    pub(super) owners: Owners,
    pub(super) consumer_bed: Bed,
    pub(super) producer_bed: Bed,
    pub(super) put: Line,
    pub(super) taken: Line,
}

/// The words of [`Process`](super::owner_process::Process) of those who have the ends; zero is nobody.
#[repr(C, align(128))]
pub(super) struct Owners {
    pub(super) producer: AtomicU64,
    pub(super) consumer: AtomicU64,
}

const _: () = {
    assert!(offset_of!(Head, owners) == CACHE_LINE);
    assert!(size_of::<Head>() == 6 * CACHE_LINE);
};

/// A mapping of a queue.
pub(super) struct Segment {
    memory: NonNull<u8>,
    len: usize,
    pub(super) class: &'static Class,
    pub(super) name: String,
}

// SAFETY: a `Segment` is an address that stays mapped while it lives; all that is read and written through it is atomic, or handed from
// one thread to another by the protocol of the ring.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// Bytes that are mapped; unmapped when dropped.
struct Mapping(NonNull<u8>, usize);

impl Mapping {
    fn of(file: &rustix::fd::OwnedFd, len: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the system's choice replaces nothing.
        let memory = unsafe {
            mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        NonNull::new(memory.cast()).map(|memory| Self(memory, len)).ok_or(Errno::NOMEM)
    }

    fn head(&self) -> &Head {
        // SAFETY: mapped memory is aligned to pages, the caller has looked that there are the bytes of a head, and it is made of atomics,
        // for which any bytes are values.
        unsafe { self.0.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and whoever had it has let go of all that lies in it.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast::<c_void>(), self.1) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// What is wrong, in words.
type Failure = String;

fn path_of(name: &str) -> Result<String, Failure> {
    if name.is_empty() || name.len() > 200 || name.contains(['/', '\0']) {
        return Err(format!("the name {name:?} is not one: 1 to 200 bytes, none of them a slash or a zero"));
    }
    Ok(format!("/{name}"))
}

/// Has the system set the memory aside now: later, a full file system would be a fatal signal.
fn reserve(file: &rustix::fd::OwnedFd, len: usize) -> Result<(), Errno> {
    rustix::fs::ftruncate(file, len as u64)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len as u64)?;
    Ok(())
}

impl Segment {
    /// Makes a queue for `capacity` messages, rounded up to a power of two, of up to `slot_size` bytes.
    pub(super) fn create(name: &str, capacity: usize, slot_size: usize) -> Result<Self, Failure> {
        let path = path_of(name)?;
        let Some(class) = Class::for_messages(slot_size) else {
            return Err(format!(
                "slot_size={slot_size} is more than the {} bytes that a slot can have",
                largest()
            ));
        };
        let ring_bytes = (class.required_bytes)(capacity).map_err(|error| error.to_string())?;
        let len = size_of::<Head>() + ring_bytes;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = shm::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
            Errno::EXIST => {
                "there is one of this name; attach to it, remove it with SharedQueue.remove(), or choose another name".into()
            }
            error => error.to_string(),
        })?;
        let made = reserve(&file, len).and_then(|()| Mapping::of(&file, len));
        let made = made.map_err(|error| format!("{len} bytes of shared memory cannot be had: {error}"));
        let made = made.and_then(|mapping| Self::initialise(mapping, class, name, capacity, ring_bytes));
        if made.is_err() {
            // Best effort: the error that matters is the one before.
            let _ = shm::unlink(&path);
        }
        made
    }

    fn initialise(
        mapping: Mapping,
        class: &'static Class,
        name: &str,
        capacity: usize,
        ring_bytes: usize,
    ) -> Result<Self, Failure> {
        // SAFETY: the head lies within the mapping, which is `ring_bytes` longer.
        let ring = unsafe { mapping.0.add(size_of::<Head>()) };
        // SAFETY: so many bytes are there, just mapped, and without the magic nobody uses them.
        unsafe { (class.create)(ring, ring_bytes, capacity) }.map_err(|error| error.to_string())?;
        let head = mapping.head();
        head.version.store(VERSION, Ordering::Relaxed);
        head.stride.store(class.stride as u32, Ordering::Relaxed);
        head.ring_bytes.store(ring_bytes as u64, Ordering::Relaxed);
        // Release: whoever sees it sees the rest.
        head.magic.store(MAGIC, Ordering::Release);
        Ok(Self::of(mapping, class, name))
    }

    fn of(mapping: Mapping, class: &'static Class, name: &str) -> Self {
        let segment = Self { memory: mapping.0, len: mapping.1, class, name: name.to_owned() };
        std::mem::forget(mapping);
        segment
    }

    /// Maps a queue that another process, or this one, has made.
    pub(super) fn attach(name: &str) -> Result<Self, Failure> {
        let path = path_of(name)?;
        let file = shm::open(&path, OFlags::RDWR, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => {
                "there is none of this name; create it first, and keep it open until the others have attached"
                    .into()
            }
            error => error.to_string(),
        })?;
        let size = fstat(&file).map_err(|error| error.to_string())?.st_size;
        let len = usize::try_from(size).unwrap_or(0);
        if len < size_of::<Head>() {
            return Err(format!(
                "its {len} bytes are too few for a queue; is it being created this moment, or not a queue?"
            ));
        }
        let mapping = Mapping::of(&file, len).map_err(|error| format!("it cannot be mapped: {error}"))?;
        let class = Self::check(mapping.head(), len)?;
        let segment = Self::of(mapping, class, name);
        segment.check_ring()?;
        Ok(segment)
    }

    /// The class that the header names, if the header is that of a queue which lies in `len` bytes.
    fn check(head: &Head, len: usize) -> Result<&'static Class, Failure> {
        // Acquire, and first: pairs with the release at the end of `initialise`.
        let magic = head.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(format!(
                "it begins with {magic:#018x}, not as a queue does; something else has this name"
            ));
        }
        let version = head.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(format!(
                "it has version {version} of the layout, but this pydotcompute has version {VERSION}"
            ));
        }
        let stride = head.stride.load(Ordering::Relaxed);
        let class = Class::of_stride(stride as usize);
        let class =
            class.ok_or_else(|| format!("its slots have {stride} bytes, it says; the header is damaged"))?;
        let ring_bytes = head.ring_bytes.load(Ordering::Relaxed);
        if ring_bytes != (len - size_of::<Head>()) as u64 || ring_bytes < 4 * CACHE_LINE as u64 {
            return Err(format!(
                "it has {len} bytes but a ring of {ring_bytes}, it says; it is damaged or cut short"
            ));
        }
        Ok(class)
    }

    /// Looks at the ring's own header, which is checked again whenever an end is attached.
    fn check_ring(&self) -> Result<(), Failure> {
        let capacity = self.capacity();
        let needed = (self.class.required_bytes)(capacity).map_err(|error| error.to_string())?;
        if !capacity.is_power_of_two() || needed != self.ring_bytes() {
            return Err(format!(
                "its ring has {capacity} slots, it says, which do not fill it; it is damaged"
            ));
        }
        Ok(())
    }

    pub(super) fn head(&self) -> &Head {
        // SAFETY: mapped for as long as `self`, of at least this length, and made of atomics.
        unsafe { self.memory.cast().as_ref() }
    }

    /// Where the ring is.
    pub(super) fn ring(&self) -> NonNull<u8> {
        // SAFETY: the mapping is longer than the head.
        unsafe { self.memory.add(size_of::<Head>()) }
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.len - size_of::<Head>()
    }

    /// Messages that the ring has room for.
    pub(super) fn capacity(&self) -> usize {
        let offset = offset_of!(dotcompute_ring::layout::Header, capacity);
        // SAFETY: a field of the ring's header, which lies at its beginning; aligned, and within any ring; atomic, since another process
        // may be writing to it.
        let capacity = unsafe { self.ring().add(offset).cast::<AtomicU64>().as_ref() };
        usize::try_from(capacity.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Messages in the ring.
    pub(super) fn messages(&self) -> usize {
        // What was taken first: it can only be too small then.
        let taken = self.head().taken.0.load(Ordering::Acquire);
        let put = self.head().put.0.load(Ordering::Acquire);
        (put.saturating_sub(taken) as usize).min(self.capacity())
    }

    /// Takes the name away: nobody else can attach any more. Whether there was one.
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
