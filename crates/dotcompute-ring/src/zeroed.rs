//! Zeroed memory that the operating system provides by the page, when a page is first touched.
//!
//! `alloc_zeroed` does not: above an alignment of 16 bytes Rust's default allocator writes every byte itself, and glibc writes every byte of
//! a block that was used before. Here small blocks come from `alloc_zeroed` with a small alignment and are aligned by hand, and large ones
//! from the system: on Linux cut from large mappings, elsewhere mapped one by one.

#[cfg(all(feature = "std", unix, not(loom)))]
mod mapping;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, miri))))]
mod slab;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

/// The alignment up to which allocators call `calloc`.
const SMALL_ALIGN: usize = 16;

/// Blocks from this size on come from the system: 8 pages, the rings of a ring kernel with default options included.
#[cfg(all(feature = "std", unix, not(loom)))]
const MAPPED_BYTES: usize = 1 << 15;

/// A block of zeroed memory, freed on drop. A page that nothing has touched occupies no memory, if the block is large or was not in use
/// before.
///
/// ```
/// use std::alloc::Layout;
/// use dotcompute_ring::zeroed::ZeroedMemory;
///
/// let layout = Layout::from_size_align(1 << 30, 128)?;
/// let memory = ZeroedMemory::new(layout).expect("1 GiB of addresses, and no page of memory yet");
/// assert!(memory.as_ptr().as_ptr().addr().is_multiple_of(128));
/// // SAFETY: the byte is within the block, and zeroed.
/// assert_eq!(unsafe { *memory.as_ptr().as_ptr() }, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ZeroedMemory {
    /// The first byte of the requested layout.
    first: NonNull<u8>,
    /// What the allocator returned, at or before `first`.
    base: NonNull<u8>,
    /// Size of the block at `base`.
    bytes: usize,
    source: Source,
}

/// Where a block came from, and goes to.
#[derive(Clone, Copy)]
enum Source {
    Allocator,
    #[cfg(all(feature = "std", unix, not(loom)))]
    Mapped,
    #[cfg(all(feature = "std", target_os = "linux", not(any(loom, miri))))]
    Slab,
}

// SAFETY: the value owns the block, which is tied to no thread. It gives access by address only; who dereferences it synchronizes.
unsafe impl Send for ZeroedMemory {}
// SAFETY: as for `Send`; shared access returns the address.
unsafe impl Sync for ZeroedMemory {}

impl ZeroedMemory {
    /// Returns zeroed memory of this layout. `None` if the memory is not available.
    #[must_use]
    pub fn new(layout: Layout) -> Option<Self> {
        let padding = layout.align().saturating_sub(SMALL_ALIGN);
        let bytes = layout.size().checked_add(padding)?.max(1);
        let (base, source) = match from_system(bytes) {
            Some(block) => block,
            None => {
                let block = Layout::from_size_align(bytes, SMALL_ALIGN).ok()?;
                // SAFETY: the size is at least 1.
                (NonNull::new(unsafe { alloc_zeroed(block) })?, Source::Allocator)
            }
        };
        let offset = base.as_ptr().align_offset(layout.align());
        // Owned from here on, so that the block is freed on an early return.
        let mut memory = Self { first: base, base, bytes, source };
        if offset > padding {
            return None;
        }
        // SAFETY: `offset` is at most the padding, so `layout.size()` bytes follow within the block.
        memory.first = unsafe { base.add(offset) };
        Some(memory)
    }

    /// Returns the address of the first byte, aligned as requested.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.first
    }
}

impl Drop for ZeroedMemory {
    fn drop(&mut self) {
        match self.source {
            Source::Allocator => {
                let block = Layout::from_size_align(self.bytes, SMALL_ALIGN);
                let block = block.expect("`new` has computed this layout");
                // SAFETY: `new` allocated the block with this layout, and it is freed once.
                unsafe { dealloc(self.base.as_ptr(), block) };
            }
            #[cfg(all(feature = "std", unix, not(loom)))]
            Source::Mapped => mapping::unmap(self.base, self.bytes),
            // SAFETY: `new` took the block from the slab. Its owner is being dropped, and frees it once.
            #[cfg(all(feature = "std", target_os = "linux", not(any(loom, miri))))]
            Source::Slab => unsafe { slab::free(self.base) },
        }
    }
}

/// Maps a block, or cuts it from a slab, if it is large enough. `None` also if the system refuses.
#[cfg(all(feature = "std", unix, not(loom)))]
fn from_system(bytes: usize) -> Option<(NonNull<u8>, Source)> {
    if bytes < MAPPED_BYTES {
        return None;
    }
    #[cfg(all(target_os = "linux", not(miri)))]
    if let Some(block) = slab::allocate(bytes) {
        return Some((block, Source::Slab));
    }
    mapping::map(bytes).map(|base| (base, Source::Mapped))
}

#[cfg(not(all(feature = "std", unix, not(loom))))]
fn from_system(_bytes: usize) -> Option<(NonNull<u8>, Source)> {
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_size_and_alignment_is_zeroed_aligned_and_writable() {
        for align in [1, 8, 16, 128, 4096, 1 << 16] {
            for size in [1, 100, 4096, (1 << 15) - 1, 1 << 15, 1 << 20] {
                let memory = ZeroedMemory::new(Layout::from_size_align(size, align).unwrap()).unwrap();
                let first = memory.as_ptr().as_ptr();
                assert!(first.addr().is_multiple_of(align), "size {size}, alignment {align}");
                // SAFETY: the block has `size` bytes, initialised to zero, and nothing else accesses it.
                let bytes = unsafe { core::slice::from_raw_parts_mut(first, size) };
                assert!(bytes.iter().all(|byte| *byte == 0), "size {size}, alignment {align}");
                // The next block may reuse this one.
                bytes.fill(0xff);
            }
        }
    }

    #[test]
    fn memory_that_cannot_exist_is_refused() {
        assert!(
            ZeroedMemory::new(Layout::from_size_align(isize::MAX as usize - 4096, 128).unwrap()).is_none()
        );
    }

    /// Reads the resident memory of this process, in bytes.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    #[cfg(all(feature = "std", target_os = "linux", not(miri)))]
    fn a_page_that_is_not_touched_occupies_no_memory() {
        let before = resident_bytes();
        // Reused, because a block that was in use before must not be written either.
        for _ in 0..3 {
            let memory = ZeroedMemory::new(Layout::from_size_align(1 << 28, 128).unwrap()).unwrap();
            // SAFETY: the byte is within the block.
            unsafe { memory.as_ptr().write(1) };
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < 1 << 26, "{grown} of {} bytes are resident", 1 << 28);
        }
    }
}
