//! The stacks of all threads of this process, as text.
//!
//! On Linux a signal is sent to each thread in `/proc/self/task`. Its handler unwinds the interrupted stack into a slot that was
//! reserved for the thread; it neither allocates nor locks. The calling thread then resolves the addresses and formats them. A thread
//! that blocks all signals, as those of some drivers do, is listed by name only. On other systems there is no such list.

#[cfg(not(target_os = "linux"))]
pub(crate) fn all_threads_but(_name: &str) -> String {
    String::from("  (stacks are available on Linux only)\n")
}

#[cfg(target_os = "linux")]
pub(crate) use linux::all_threads_but;

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::Cell;
    use std::ffi::{CStr, c_int, c_void};
    use std::fmt::Write;
    use std::fs;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    /// Threads whose stacks are captured; those beyond are counted.
    const MAX_THREADS: usize = 256;
    const MAX_FRAMES: usize = 96;
    /// How long a thread may take to run its handler.
    const CAPTURE_TIMEOUT: Duration = Duration::from_secs(1);
    /// Name of the handler, by which its frame is found.
    const HANDLER: &str = "capture_stack";

    /// Where the handler of one thread stores the stack.
    struct Slot {
        /// The thread; 0 if the slot is not reserved.
        thread: AtomicI32,
        frames: [AtomicUsize; MAX_FRAMES],
        /// Frames stored, plus one; 0 until the handler is done.
        stored: AtomicUsize,
    }

    static SLOTS: [Slot; MAX_THREADS] = [const {
        Slot {
            thread: AtomicI32::new(0),
            frames: [const { AtomicUsize::new(0) }; MAX_FRAMES],
            stored: AtomicUsize::new(0),
        }
    }; MAX_THREADS];

    /// The signal: one for applications that the C library and the Rust runtime leave alone.
    fn signal() -> c_int {
        libc::SIGRTMIN() + 7
    }

    /// The id of this thread.
    fn this_thread() -> c_int {
        // SAFETY: `gettid` has no preconditions.
        unsafe { libc::gettid() }
    }

    /// Signal handler: stores the interrupted thread's stack in the slot that is reserved for it.
    extern "C" fn capture_stack(_signal: c_int) {
        // SAFETY: the pointer is to this thread's `errno`, which is valid while the thread runs.
        let errno = unsafe { *libc::__errno_location() };
        let thread = this_thread();
        // Acquire: pairs with the release store in `request`; the slot is reserved for this thread before the signal is sent.
        if let Some(slot) = SLOTS.iter().find(|slot| slot.thread.load(Ordering::Acquire) == thread) {
            let stored = Cell::new(0);
            // SAFETY: one thread symbolizes, and it does so after the handlers are done. Unwinding needs no lock of this crate.
            unsafe {
                backtrace::trace_unsynchronized(|frame| {
                    slot.frames[stored.get()].store(frame.ip().expose_provenance(), Ordering::Relaxed);
                    stored.set(stored.get() + 1);
                    stored.get() < MAX_FRAMES
                });
            }
            // Release: pairs with the acquire load in `wait_for_capture`; publishes the frames.
            slot.stored.store(stored.get() + 1, Ordering::Release);
        }
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }

    /// Installs the handler for the rest of the process.
    fn install_handler() -> bool {
        // SAFETY: all-zero bytes are a valid `sigaction`; the mask is initialized below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = capture_stack as extern "C" fn(c_int) as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: `action` is initialized, and the handler is a function of the type that `sa_flags` asks for. It runs on any thread and
        // calls only async-signal-safe functions and the unwinder.
        unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) == 0
        }
    }

    /// Reserves the slot for the thread and sends the signal. False if the thread has ended.
    fn request(slot: &Slot, thread: c_int) -> bool {
        // Release: pairs with the acquire load in `capture_stack`.
        slot.thread.store(thread, Ordering::Release);
        // SAFETY: `tgkill` takes numbers only; the handler is installed.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) == 0 }
    }

    /// The frames of the slot's thread, innermost first; none if its handler did not run in time.
    fn wait_for_capture(slot: &Slot, deadline: Instant) -> Option<Vec<usize>> {
        loop {
            // Acquire: pairs with the release store in `capture_stack`.
            let stored = slot.stored.load(Ordering::Acquire);
            if stored > 0 {
                let frames = slot.frames.iter().take(stored - 1);
                return Some(frames.map(|frame| frame.load(Ordering::Relaxed)).collect());
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ids and names of the threads of this process, except this one and those called `omitted`. The kernel truncates names to 15 bytes.
    fn threads(omitted: &str) -> Vec<(c_int, String)> {
        let Ok(entries) = fs::read_dir("/proc/self/task") else { return Vec::new() };
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let named = ids.map(|id: c_int| {
            let name = fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
            (id, name.trim_end().to_owned())
        });
        let mut threads: Vec<_> =
            named.filter(|(id, name)| *id != this_thread() && name != omitted).collect();
        threads.sort_unstable();
        threads
    }

    /// Name, id and stack of every thread of this process, except this one and those called `omitted`.
    pub(crate) fn all_threads_but(omitted: &str) -> String {
        // The first unwinding of a process may initialize tables; not in a handler.
        backtrace::trace(|_| true);
        let installed = install_handler();
        let threads = threads(omitted);
        let mut requested = Vec::new();
        for ((thread, _), slot) in threads.iter().zip(&SLOTS) {
            requested.push(installed && request(slot, *thread));
        }
        let deadline = Instant::now() + CAPTURE_TIMEOUT;
        let captured: Vec<_> = requested
            .iter()
            .zip(&SLOTS)
            .map(|(requested, slot)| if *requested { wait_for_capture(slot, deadline) } else { None })
            .collect();
        let mut text = String::new();
        for ((thread, name), frames) in threads.iter().zip(captured) {
            let _ = writeln!(text, "\n  thread `{name}`, id {thread}:");
            match frames {
                Some(frames) => describe(&mut text, &frames),
                None => text.push_str("    (no stack: the thread blocks signals or has ended)\n"),
            }
        }
        if threads.len() > MAX_THREADS {
            let _ = writeln!(text, "\n  and {} more threads", threads.len() - MAX_THREADS);
        }
        text
    }

    /// A frame's functions, inlined ones first, each with its source line if that is known.
    fn functions(frame: usize) -> Vec<String> {
        let mut functions = Vec::new();
        backtrace::resolve(std::ptr::with_exposed_provenance_mut(frame), |symbol| {
            let Some(name) = symbol.name() else { return };
            let line = match (symbol.filename(), symbol.lineno()) {
                (Some(file), Some(line)) => format!(" ({}:{line})", file.display()),
                _ => String::new(),
            };
            functions.push(format!("{name:#}{line}"));
        });
        if functions.is_empty() {
            functions.push(unnamed(frame));
        }
        functions
    }

    /// An address in code without symbols: its file and its offset there, for `addr2line`.
    fn unnamed(frame: usize) -> String {
        // SAFETY: all-zero bytes are a valid `Dl_info`.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        let address: *const c_void = std::ptr::with_exposed_provenance(frame);
        // SAFETY: `dladdr` takes any address and writes to `info`.
        let found = unsafe { libc::dladdr(address, &raw mut info) } != 0 && !info.dli_fname.is_null();
        if !found {
            return format!("{frame:#x}");
        }
        // SAFETY: `dladdr` set it to the file's name, a string that lives as long as the file is loaded.
        let file = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
        format!("{file}+{:#x}", frame.wrapping_sub(info.dli_fbase.addr()))
    }

    /// Lines for the frames from where the thread was interrupted up to the thread's own entry.
    fn describe(text: &mut String, frames: &[usize]) {
        let frames: Vec<Vec<String>> = frames.iter().map(|&frame| functions(frame)).collect();
        let is_in = |frame: &Vec<String>, name: &str| frame.iter().any(|function| function.contains(name));
        // Innermost are the handler and the C library's signal trampoline.
        let start = frames.iter().rposition(|frame| is_in(frame, HANDLER)).map_or(0, |handler| handler + 2);
        let inner = frames.iter().skip(start);
        for function in inner.take_while(|frame| !is_in(frame, "__rust_begin_short_backtrace")).flatten() {
            let _ = writeln!(text, "    {function}");
        }
    }
}
