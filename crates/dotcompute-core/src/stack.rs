//! Whether the stack of a thread has room for calls that move large messages by value.
//!
//! A message is moved through several functions, and each may have copies of it on the stack: many without optimization, a few with it. A
//! stack overflow ends the process, so a call that could overflow is refused instead. Messages below [`LARGE`] are never checked.

use std::cell::Cell;
use std::hint::black_box;

use crate::error::Refusal;

/// From this size on messages are checked, in bytes. Smaller ones take at most half a megabyte.
const LARGE: usize = 4096;

/// Stack beside the copies, for code that moves no message.
const MARGIN: usize = 96 << 10;

/// Stack size of the pool's workers: addresses, of which the system provides what is touched.
pub(crate) const WORKER_STACK: usize = 16 << 20;

/// Stack size of a dedicated thread, unless its messages need more: the default of Rust.
const THREAD_STACK: usize = 2 << 20;

/// The most copies of a message that one call has on the stack, with any optimization and without. Measured with x86-64 and Rust 1.95 for
/// messages of 16 and 64 KiB: the smallest stack on which each call succeeds.
#[derive(Clone, Copy)]
pub(crate) struct Copies {
    optimized: usize,
    unoptimized: usize,
}

impl Copies {
    /// A blocking call. Measured: 29 and 101.
    pub(crate) const BLOCKING: Self = Self { optimized: 29, unoptimized: 105 };
    /// The rest of a poll of a future, which itself is on the stack too. Measured: 15 and 48, and in all 23 and 68.
    pub(crate) const ASYNC: Self = Self { optimized: 18, unoptimized: 54 };
    /// The side of the ring kernel, with a handler that has a few copies of its own. Measured: 19 and 65.
    const HANDLER: Self = Self { optimized: 26, unoptimized: 80 };

    /// Stack for messages of these types, in bytes.
    fn needed<I, O>(self) -> usize {
        let copies = if is_unoptimized::<(I, O)>() { self.unoptimized } else { self.optimized };
        larger::<I, O>().saturating_mul(copies).saturating_add(MARGIN)
    }
}

const fn larger<I, O>() -> usize {
    if size_of::<I>() > size_of::<O>() { size_of::<I>() } else { size_of::<O>() }
}

/// Returns why a call with messages of these types may not run on the calling thread. `None` if it may.
#[inline]
pub(crate) fn refusal<I, O>(copies: Copies) -> Option<Refusal> {
    if const { larger::<I, O>() < LARGE } { None } else { large_refusal::<I, O>(copies) }
}

#[cold]
fn large_refusal<I, O>(copies: Copies) -> Option<Refusal> {
    let (needed, remaining) = (copies.needed::<I, O>(), remaining()?);
    (needed > remaining).then(|| Refusal::StackTooSmall {
        message_bytes: larger::<I, O>(),
        needed,
        remaining,
    })
}

/// Returns the stack size of a thread that handles messages of these types, in bytes.
pub(crate) fn for_handler<I, O>() -> usize {
    if larger::<I, O>() < LARGE { THREAD_STACK } else { Copies::HANDLER.needed::<I, O>().max(THREAD_STACK) }
}

/// Whether code that is generic over `T` was compiled without optimization.
///
/// It is instantiated in the crate that names the message types, so that the crate's own profile counts.
fn is_unoptimized<T>() -> bool {
    struct Large([usize; 64]);

    #[inline(never)]
    fn address(value: &Large) -> usize {
        let here = 0u8;
        black_box(&value.0);
        black_box(&raw const here).addr()
    }

    /// Moves its argument as calls do that may fail.
    #[expect(
        clippy::extra_unused_type_parameters,
        reason = "decides in which crate the function is instantiated"
    )]
    #[inline(never)]
    fn moves<T>(value: Large) -> usize {
        match Some(value).ok_or(()).map(Some) {
            Ok(Some(value)) => address(&value),
            _ => 0,
        }
    }

    let here = 0u8;
    let depth = black_box(&raw const here).addr().abs_diff(moves::<T>(Large([0; 64])));
    // Measured: 1.1 times the size at every level of optimization, 4.2 times without.
    depth > 2 * size_of::<Large>()
}

/// Returns how much of the calling thread's stack is free, in bytes. `None` if that is unknown on this system.
fn remaining() -> Option<usize> {
    thread_local! {
        /// The lowest address of the stack. `None` before the first call.
        static LOWEST: Cell<Option<usize>> = const { Cell::new(None) };
    }
    let here = 0u8;
    let lowest = match LOWEST.try_with(Cell::get).ok()? {
        Some(lowest) => lowest,
        None => {
            let lowest = lowest_address()?;
            LOWEST.set(Some(lowest));
            lowest
        }
    };
    // `None` on a stack that is not the thread's own, such as that of a coroutine.
    black_box(&raw const here).addr().checked_sub(lowest)
}

#[cfg(target_os = "linux")]
fn lowest_address() -> Option<usize> {
    use std::mem::MaybeUninit;

    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the calling thread exists, and `attributes` has room for its attributes.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut lowest, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the call above has initialized `attributes`; both results are writable.
    let result = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut bytes) };
    // SAFETY: `attributes` is initialized and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    (result == 0).then(|| lowest.addr())
}

#[cfg(target_os = "macos")]
fn lowest_address() -> Option<usize> {
    // SAFETY: both functions read attributes of the calling thread.
    let (highest, bytes) = unsafe {
        let thread = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(thread), libc::pthread_get_stacksize_np(thread))
    };
    Some(highest.addr() - bytes)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn lowest_address() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_are_never_refused() {
        assert!(refusal::<[u8; LARGE - 1], u8>(Copies::ASYNC).is_none());
        assert_eq!(for_handler::<u64, u64>(), THREAD_STACK);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn a_message_is_refused_where_the_stack_is_too_small() {
        let checked = |stack: usize| {
            let thread = std::thread::Builder::new().stack_size(stack);
            thread.spawn(|| refusal::<u8, [u8; 1 << 20]>(Copies::BLOCKING)).unwrap().join().unwrap()
        };
        let Some(Refusal::StackTooSmall { message_bytes, needed, remaining }) = checked(8 << 20) else {
            panic!("8 MiB are too small for copies of 1 MiB")
        };
        assert_eq!(message_bytes, 1 << 20);
        // The C library may reuse a larger stack, of up to four times the size.
        assert!(remaining < needed && remaining > 7 << 20, "{remaining} of {needed}");
        assert_eq!(checked(160 << 20), None);
        assert!(for_handler::<u8, [u8; 1 << 20]>() > 20 << 20);
    }

    #[test]
    fn the_profile_of_this_crate_is_recognized() {
        // Every profile that this workspace runs tests with optimizes, also with debug assertions.
        assert!(!is_unoptimized::<u8>());
    }
}
