//! Zeroed memory from the operating system.

use core::ptr::NonNull;

/// Maps zeroed memory at an address that the system chooses. `None` if the system refuses, for example because of the number of mappings.
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a private anonymous mapping at an address that the system chooses; it replaces no other mapping.
    let base = unsafe { libc::mmap(core::ptr::null_mut(), bytes, access, flags, -1, 0) };
    if base == libc::MAP_FAILED { None } else { NonNull::new(base.cast()) }
}

/// Ends a mapping, or a part of one, that its owner does not use any more.
pub(super) fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: `map` returned this memory, and its owner does not use it any more.
    if unsafe { libc::munmap(base.as_ptr().cast(), bytes) } != 0 {
        // One more gap between mappings would exceed their number. The addresses are lost, but not the memory.
        discard(base, bytes);
    }
}

/// Returns the pages of a mapping to the system, and keeps the addresses. On Linux the pages read as zeros afterwards.
pub(super) fn discard(base: NonNull<u8>, bytes: usize) {
    // SAFETY: `map` returned this memory, and its owner does not use its contents any more. It owns every page that the range touches, so no
    // other memory loses its contents. If the advice fails, as for locked memory, the pages stay as they are.
    let result = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
    if result != 0 {
        // SAFETY: as above; the memory is mapped and writable.
        unsafe { base.write_bytes(0, bytes) };
    }
}
