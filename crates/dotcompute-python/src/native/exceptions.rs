//! Exceptions that compiled handlers raise.
//!
//! A compiled function that raises leaves the address of a description, made by Numba: for an exception whose arguments are known when the
//! function is compiled, one that is part of the machine code; for one with arguments of that moment, one on the heap. To make the exception
//! takes the interpreter, which the thread that handles messages never does: so descriptions get a number, the number goes into the error's
//! text, and whoever shows the error to Python fetches the description.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::fmt;

/// Descriptions on the heap that are kept until somebody asks; older ones are freed.
const KEPT: usize = 64;

/// Numba's `excinfo_t`.
#[repr(C)]
pub(super) struct Description {
    _pickled: *const u8,
    _pickled_len: i32,
    arguments: *mut c_void,
    _unwrap: *const c_void,
    /// How many arguments; not 0 exactly if the description is on the heap.
    dynamic: i32,
}

/// Frees what Numba's runtime has allocated.
pub(super) type Free = unsafe extern "C" fn(*mut c_void);

/// The exceptions of one ring kernel so far.
pub(super) struct Raised {
    free: Free,
    /// Those of the code itself, by address.
    fixed: HashMap<usize, u64>,
    /// Those on the heap, oldest first.
    dynamic: VecDeque<(u64, usize)>,
    next: u64,
}

impl Raised {
    pub(super) fn new(free: Free) -> Self {
        Self { free, fixed: HashMap::new(), dynamic: VecDeque::new(), next: 1 }
    }

    /// Gives a description a number.
    ///
    /// # Safety
    ///
    /// A compiled function has just left this address, and nobody has freed it.
    pub(super) unsafe fn add(&mut self, description: *const Description) -> u64 {
        let address = description.addr();
        if let Some(&number) = self.fixed.get(&address) {
            return number;
        }
        let number = self.next;
        self.next += 1;
        // SAFETY: the caller's promise.
        if unsafe { (*description).dynamic } == 0 {
            self.fixed.insert(address, number);
            return number;
        }
        if self.dynamic.len() == KEPT
            && let Some((_, oldest)) = self.dynamic.pop_front()
        {
            self.discard(oldest);
        }
        self.dynamic.push_back((number, address));
        number
    }

    /// The address of a description. One on the heap becomes the caller's, who has to free it.
    pub(super) fn take(&mut self, number: u64) -> Option<usize> {
        if let Some(at) = self.dynamic.iter().position(|&(kept, _)| kept == number) {
            return self.dynamic.remove(at).map(|(_, address)| address);
        }
        self.fixed.iter().find(|&(_, &kept)| kept == number).map(|(&address, _)| address)
    }

    fn discard(&self, address: usize) {
        let description = std::ptr::with_exposed_provenance_mut::<Description>(address);
        // SAFETY: only addresses that `add` was given, of descriptions on the heap, get here, each once: it has left the queue.
        unsafe {
            (self.free)((*description).arguments);
            (self.free)(description.cast());
        }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        while let Some((_, address)) = self.dynamic.pop_front() {
            self.discard(address);
        }
    }
}

/// What a handler's error is to the core: a number, in words.
#[derive(Debug)]
pub(super) struct RaisedError(pub(super) u64);

const WORDS: &str = "it raised exception number ";

impl fmt::Display for RaisedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORDS}{}", self.0)
    }
}

impl std::error::Error for RaisedError {}

/// The number in the text of a cause, if it is of a [`RaisedError`].
pub(super) fn number_in(cause: &str) -> Option<u64> {
    cause.strip_prefix(WORDS)?.parse().ok()
}
