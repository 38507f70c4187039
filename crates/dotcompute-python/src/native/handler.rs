//! A compiled handler as a ring kernel of the core runtime.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dotcompute_core::error::HandlerResult;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::message::record::RecordBytes;
use pyo3::prelude::*;

use super::exceptions::{Description, Free, Raised, RaisedError};

/// What a handler is told of its message: the fields that a handler on a GPU reads too, where they are there (`context.cuh`).
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

/// A compiled handler, by Numba's calling convention for processors: the result is written to `result` (1: there is a reply), an exception's
/// description to `raised`, and 0 is returned unless there is one.
type Entry = unsafe extern "C" fn(
    result: *mut i32,
    raised: *mut *const Description,
    context: *const HandlerContext,
    state: *mut u8,
    message: *const u8,
    reply: *mut u8,
) -> i32;

/// What a ring kernel's handler and its handles share.
pub(super) struct Program {
    entry: Entry,
    output_size: usize,
    initial: RecordBytes,
    /// Locked while a message is handled, so that whoever reads it sees it between two messages.
    state: Mutex<RecordBytes>,
    raised: Mutex<Raised>,
    /// Keeps the machine code.
    _code: Py<PyAny>,
}

impl Program {
    /// # Safety
    ///
    /// `entry` and `free` are addresses of functions of these types that stay valid as long as `code` lives; the entry takes messages,
    /// states and replies of the sizes given here.
    pub(super) unsafe fn new(
        entry: usize,
        free: usize,
        output_size: usize,
        initial: RecordBytes,
        code: Py<PyAny>,
    ) -> Self {
        // SAFETY: the caller's promise.
        let (entry, free) = unsafe {
            (
                std::mem::transmute::<*const (), Entry>(std::ptr::with_exposed_provenance(entry)),
                std::mem::transmute::<*const (), Free>(std::ptr::with_exposed_provenance(free)),
            )
        };
        let state = Mutex::new(initial.clone());
        Self { entry, output_size, initial, state, raised: Mutex::new(Raised::new(free)), _code: code }
    }

    fn state(&self) -> MutexGuard<'_, RecordBytes> {
        // Any bytes are a state: one that a panic of ours has left is as good as one that an exception has.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state's bytes, between two messages.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        self.state().as_slice().to_vec()
    }

    /// Overwrites the state between two messages. False if the bytes are not as many as it has.
    pub(super) fn restore(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let fits = state.as_slice().len() == bytes.len();
        if fits {
            state.as_mut_slice().copy_from_slice(bytes);
        }
        fits
    }

    /// The address of the description of an exception; see [`Raised::take`].
    pub(super) fn take_raised(&self, number: u64) -> Option<usize> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take(number)
    }
}

/// The ring kernel.
pub(super) struct Handler {
    program: Arc<Program>,
    sequence: u64,
}

impl Handler {
    /// One whose state is as it was declared.
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
        // SAFETY: the entry is a function of this type, and the records have the sizes it was compiled for (`Program::new`; messages are
        // packed by the codec of the same layout); all pointers are valid and aligned to 8, and the state is locked.
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
        if result == 1 {
            ctx.reply(reply);
        }
        Ok(())
    }
}

impl Handler {
    #[cold]
    fn error(&self, status: i32, raised: *const Description) -> dotcompute_core::error::HandlerError {
        if raised.is_null() {
            return format!("its machine code ended with status {status}").into();
        }
        let mut table = self.program.raised.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the entry has just left this address.
        RaisedError(unsafe { table.add(raised) }).into()
    }
}
