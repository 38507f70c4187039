//! A compiled handler as a ring kernel of the core runtime.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dotcompute_core::error::HandlerResult;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::message::record::RecordBytes;
use pyo3::prelude::*;

use super::exceptions::{ExcInfo, FreeFn, RaisedError, RaisedExceptions};

/// The context of a handler. Its fields and their layout match those of a handler on a GPU (`context.cuh`).
#[repr(C)]
struct HandlerContext {
    thread: u32,
    threads: u32,
    block: u32,
    blocks: u32,
    wants_reply: u32,
    priority: u32,
    sequence: u64,
}

/// A compiled handler, in the calling convention of Numba for CPUs.
///
/// It writes its result to `result` (1 if there is a reply) and returns 0. If it raises, it writes the address of the `excinfo_t` to
/// `raised` and returns another number.
type Entry = unsafe extern "C" fn(
    result: *mut i32,
    raised: *mut *const ExcInfo,
    context: *const HandlerContext,
    state: *mut u8,
    message: *const u8,
    reply: *mut u8,
) -> i32;

/// The compiled handler and the state of a ring kernel, shared by its handler and its handles.
pub(super) struct Program {
    entry: Entry,
    output_size: usize,
    initial: RecordBytes,
    /// Locked while a message is handled, so that readers see it at a message boundary.
    state: Mutex<RecordBytes>,
    raised: Mutex<RaisedExceptions>,
    /// Keeps the machine code alive.
    _code: Py<PyAny>,
}

impl Program {
    /// # Safety
    ///
    /// `entry` and `free` must be addresses of functions of the types [`Entry`] and [`FreeFn`], valid while `code` is alive. The entry must
    /// be compiled for replies of `output_size` bytes, for states of the size of `initial`, and for the messages that the kernel gets.
    pub(super) unsafe fn new(
        entry: usize,
        free: usize,
        output_size: usize,
        initial: RecordBytes,
        code: Py<PyAny>,
    ) -> Self {
        // SAFETY: the caller guarantees that both addresses are functions of these types.
        let (entry, free) = unsafe {
            (
                std::mem::transmute::<*const (), Entry>(std::ptr::with_exposed_provenance(entry)),
                std::mem::transmute::<*const (), FreeFn>(std::ptr::with_exposed_provenance(free)),
            )
        };
        let state = Mutex::new(initial.clone());
        Self {
            entry,
            output_size,
            initial,
            state,
            raised: Mutex::new(RaisedExceptions::new(free)),
            _code: code,
        }
    }

    fn state(&self) -> MutexGuard<'_, RecordBytes> {
        // Every byte pattern is a valid state, so a state left by a panic is as valid as one left by an exception.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the state at a message boundary.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        self.state().as_slice().to_vec()
    }

    /// Overwrites the state at a message boundary. Returns `false` if the size differs.
    pub(super) fn restore(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let fits = state.as_slice().len() == bytes.len();
        if fits {
            state.as_mut_slice().copy_from_slice(bytes);
        }
        fits
    }

    /// Returns the address of the `excinfo_t` with this number; see [`RaisedExceptions::take`].
    pub(super) fn take_raised(&self, number: u64) -> Option<usize> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take(number)
    }
}

/// A ring kernel of the core runtime that calls a compiled handler.
pub(super) struct Handler {
    program: Arc<Program>,
    sequence: u64,
}

impl Handler {
    /// Creates a handler and resets the state to its initial value.
    pub(super) fn new(program: &Arc<Program>) -> Self {
        *program.state() = program.initial.clone();
        Self { program: Arc::clone(program), sequence: 0 }
    }
}

impl RingKernel for Handler {
    type Input = RecordBytes;
    type Output = RecordBytes;

    fn handle(&mut self, message: RecordBytes, ctx: &mut Context<RecordBytes>) -> HandlerResult {
        let program = &*self.program;
        let context = HandlerContext {
            thread: 0,
            threads: 1,
            block: 0,
            blocks: 1,
            wants_reply: u32::from(ctx.wants_reply()),
            priority: ctx.header().map_or(128, |header| u32::from(header.priority.get())),
            sequence: self.sequence,
        };
        self.sequence += 1;
        let mut reply = RecordBytes::zeroed(program.output_size);
        let (mut result, mut raised) = (0, std::ptr::null());
        let mut state = program.state();
        // SAFETY: by the contract of `Program::new`, the entry is a function of this type, compiled for records of these sizes. The codec
        // of the same layout packed `message`. All pointers are valid and aligned to 8 for the call. The state lock excludes other
        // accesses.
        let status = unsafe {
            (program.entry)(
                &raw mut result,
                &raw mut raised,
                &raw const context,
                state.as_mut_slice().as_mut_ptr(),
                message.as_slice().as_ptr(),
                reply.as_mut_slice().as_mut_ptr(),
            )
        };
        drop(state);
        if status != 0 {
            return Err(self.error(status, raised));
        }
        // The returned value answers a request; for a message that was told it is an output.
        if result == 1 {
            if ctx.was_asked() {
                ctx.reply(reply);
            } else {
                ctx.send(reply);
            }
        }
        Ok(())
    }
}

impl Handler {
    #[cold]
    fn error(&self, status: i32, raised: *const ExcInfo) -> dotcompute_core::error::HandlerError {
        if raised.is_null() {
            return format!("its machine code returned status {status} without an exception").into();
        }
        let mut table = self.program.raised.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the entry has just returned this address, and the table takes ownership before anything frees it.
        RaisedError(unsafe { table.add(raised) }).into()
    }
}
