//! Exceptions that compiled handlers raise.
//!
//! A compiled function that raises returns the address of an `excinfo_t` of Numba. For an exception whose arguments are known at compile
//! time, it is part of the machine code. For one with arguments computed at run time, it is on the heap. Creating the Python exception
//! needs the interpreter, which the thread of a handler never attaches to. So each `excinfo_t` gets a number, and the number becomes part
//! of the error text. The thread that reports the error to Python looks the `excinfo_t` up by that number.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::fmt;

/// Limit of heap `excinfo_t`s stored per ring kernel. Older ones are freed.
const MAX_STORED: usize = 64;

/// `excinfo_t` of Numba.
#[repr(C)]
pub(super) struct ExcInfo {
    _pickled: *const u8,
    _pickled_len: i32,
    arguments: *mut c_void,
    _unwrap: *const c_void,
    /// Number of run-time arguments. Not 0 exactly if this struct is on the heap.
    dynamic: i32,
}

/// Frees memory of the Numba runtime.
pub(super) type FreeFn = unsafe extern "C" fn(*mut c_void);

/// Exceptions that the handler of one ring kernel has raised.
pub(super) struct RaisedExceptions {
    free: FreeFn,
    /// Numbers of those in the machine code, by address.
    fixed: HashMap<usize, u64>,
    /// Numbers and addresses of those on the heap, oldest first.
    dynamic: VecDeque<(u64, usize)>,
    next: u64,
}

impl RaisedExceptions {
    pub(super) fn new(free: FreeFn) -> Self {
        Self { free, fixed: HashMap::new(), dynamic: VecDeque::new(), next: 1 }
    }

    /// Stores an exception and returns its number. Takes ownership of an `excinfo_t` on the heap.
    ///
    /// # Safety
    ///
    /// A compiled function must just have returned this address, and it must not have been freed.
    pub(super) unsafe fn add(&mut self, info: *const ExcInfo) -> u64 {
        let address = info.addr();
        if let Some(&number) = self.fixed.get(&address) {
            return number;
        }
        let number = self.next;
        self.next += 1;
        // SAFETY: the caller guarantees that `info` is a live `excinfo_t`.
        if unsafe { (*info).dynamic } == 0 {
            self.fixed.insert(address, number);
            return number;
        }
        if self.dynamic.len() == MAX_STORED
            && let Some((_, oldest)) = self.dynamic.pop_front()
        {
            self.free_info(oldest);
        }
        self.dynamic.push_back((number, address));
        number
    }

    /// Returns the address of an `excinfo_t`. The caller takes ownership of one on the heap and must free it.
    pub(super) fn take(&mut self, number: u64) -> Option<usize> {
        if let Some(at) = self.dynamic.iter().position(|&(stored, _)| stored == number) {
            return self.dynamic.remove(at).map(|(_, address)| address);
        }
        self.fixed.iter().find(|&(_, &stored)| stored == number).map(|(&address, _)| address)
    }

    fn free_info(&self, address: usize) {
        let info = std::ptr::with_exposed_provenance_mut::<ExcInfo>(address);
        // SAFETY: callers pass addresses removed from `dynamic`. `add` inserted each of them once, for an `excinfo_t` on the heap that this
        // table owns. `free` is the deallocator of the runtime that allocated it.
        unsafe {
            (self.free)((*info).arguments);
            (self.free)(info.cast());
        }
    }
}

impl Drop for RaisedExceptions {
    fn drop(&mut self) {
        while let Some((_, address)) = self.dynamic.pop_front() {
            self.free_info(address);
        }
    }
}

/// The error of a handler as the core sees it: the number of its exception.
#[derive(Debug)]
pub(super) struct RaisedError(pub(super) u64);

/// Prefix of the error text, which [`number_in`] parses.
const WORDS: &str = "it raised exception number ";

impl fmt::Display for RaisedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORDS}{}", self.0)
    }
}

impl std::error::Error for RaisedError {}

/// Returns the number in the text of a cause, if the cause is a [`RaisedError`].
pub(super) fn number_in(cause: &str) -> Option<u64> {
    cause.strip_prefix(WORDS)?.parse().ok()
}
