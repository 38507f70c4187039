//! A time limit for tests that can hang.
//!
//! A hung test shows nothing: the test runner waits for it, or a time limit outside kills the process with all evidence. A [`Watchdog`]
//! ends such a test itself. After the limit it prints the test's name, the step that the test reported last and the stack of every thread
//! of the process. Then it ends the process with status 101, as a failed test does.
//!
//! ```
//! use dotcompute_conformance::watchdog;
//! use dotcompute_core::runtime::Runtime;
//!
//! fn a_runtime_shuts_down() {
//!     watchdog!(); // for the rest of this scope, under this function's name
//!     let runtime = Runtime::new().unwrap();
//!     runtime.shutdown(std::time::Duration::from_secs(20)).unwrap();
//! }
//! # a_runtime_shuts_down();
//! ```
//!
//! The environment variable [`TIMEOUT_ENV_VAR`] replaces every limit of the process.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::thread_dump;

/// Environment variable with the limit of every [`Watchdog`] of the process, in seconds; 0 means no limit.
pub const TIMEOUT_ENV_VAR: &str = "DOTCOMPUTE_TEST_TIMEOUT_S";

/// Limit of [`watchdog!`](crate::watchdog!) and of the conformance tests: many times what the slowest test takes on a busy machine.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// Exit status of a process that a watchdog ends: that of a test program with a failed test.
pub const EXIT_STATUS: i32 = 101;

/// Name of the threads that wait for the limits; at most 15 bytes, as the kernel truncates it.
const THREAD_NAME: &str = "test-watchdog";

/// Starts a [`Watchdog`] with [`DEFAULT_LIMIT`] for the rest of the enclosing scope, under the enclosing function's name.
#[macro_export]
macro_rules! watchdog {
    () => {
        let _watchdog = {
            fn here() {}
            $crate::watchdog::Watchdog::start_in(here, $crate::watchdog::DEFAULT_LIMIT)
        };
    };
}

thread_local! {
    /// The watchdogs that this thread has started and not dropped.
    static STARTED_HERE: RefCell<Vec<Arc<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Reports the next step of the test to the watchdog that this thread started last, as [`Watchdog::step`] does.
///
/// For tests that use [`watchdog!`](crate::watchdog!). Does nothing on a thread without a watchdog.
pub fn step(step: impl Into<String>) {
    STARTED_HERE.with_borrow(|started| {
        if let Some(shared) = started.last() {
            shared.progress().step = step.into();
        }
    });
}

/// A time limit for one test, from [`start`](Self::start) until it is dropped.
///
/// ```
/// use std::time::Duration;
/// use dotcompute_conformance::watchdog::Watchdog;
///
/// let watchdog = Watchdog::start("a pipeline drains", Duration::from_secs(60));
/// watchdog.step("sending");
/// // ...
/// watchdog.step("waiting for the last output");
/// // ...
/// drop(watchdog); // in time: nothing happens
/// ```
#[must_use = "the limit ends when the watchdog is dropped"]
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    /// None if there is no limit.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    test: String,
    progress: Mutex<Progress>,
    ended_cv: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    step: String,
    ended: bool,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the time limit of a test with this name. [`TIMEOUT_ENV_VAR`] takes precedence over `limit`.
    ///
    /// # Panics
    ///
    /// If the environment variable is not a number of seconds, or no thread can be started.
    pub fn start(test: impl Into<String>, limit: Duration) -> Self {
        let progress = Mutex::new(Progress { step: String::from("none reported"), ended: false });
        let shared = Arc::new(Shared { test: test.into(), progress, ended_cv: Condvar::new() });
        let thread = effective_limit(limit).map(|limit| {
            let shared = Arc::clone(&shared);
            let wait = move || shared.wait(limit);
            let thread = std::thread::Builder::new().name(String::from(THREAD_NAME));
            thread.spawn(wait).expect("starting the thread of a test's watchdog")
        });
        STARTED_HERE.with_borrow_mut(|started| started.push(Arc::clone(&shared)));
        Self { shared, thread }
    }

    /// Starts the time limit of the test that contains the function `here`. For [`watchdog!`](crate::watchdog!).
    #[doc(hidden)]
    pub fn start_in<F: Fn()>(_here: F, limit: Duration) -> Self {
        let path = std::any::type_name::<F>();
        let test = path.strip_suffix("::here").unwrap_or(path);
        Self::start(test, limit)
    }

    /// Reports what the test does next; printed if the test does not end in time.
    pub fn step(&self, step: impl Into<String>) {
        self.shared.progress().step = step.into();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.progress().ended = true;
        self.shared.ended_cv.notify_all();
        STARTED_HERE.with_borrow_mut(|started| started.retain(|other| !Arc::ptr_eq(other, &self.shared)));
        if let Some(thread) = self.thread.take() {
            // The thread does not panic, and a drop may run during a panic of the test.
            drop(thread.join());
        }
    }
}

/// Runs a test under a [`Watchdog`] and returns its result.
pub fn watched<T>(test: &str, limit: Duration, run: impl FnOnce() -> T) -> T {
    let _watchdog = Watchdog::start(test, limit);
    run()
}

/// The limit that applies; none if there is no limit.
fn effective_limit(limit: Duration) -> Option<Duration> {
    let Some(seconds) = std::env::var_os(TIMEOUT_ENV_VAR) else { return Some(limit) };
    let seconds = seconds.to_str().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or_else(|| {
        panic!("{TIMEOUT_ENV_VAR} is not a number of seconds; set it to one, or unset it")
    });
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

impl Shared {
    fn wait(&self, limit: Duration) {
        let progress = self.progress();
        let waited = self.ended_cv.wait_timeout_while(progress, limit, |progress| !progress.ended);
        let (progress, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && !progress.ended {
            let step = progress.step.clone();
            drop(progress);
            self.end_process(limit, &step);
        }
    }

    /// Reports the hang and ends the process.
    fn end_process(&self, limit: Duration, step: &str) -> ! {
        /// Held to the end of the process: when several tests hang, the first report is not interrupted by the exit after the second.
        static REPORT: Mutex<()> = Mutex::new(());
        let _held = REPORT.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = thread_dump::all_threads_but(THREAD_NAME);
        let Self { test, .. } = self;
        let report = format!(
            "\nwatchdog: the test `{test}` has not ended after {limit:?}; last step: {step}\n\
             watchdog: threads of process {}:\n{threads}\nwatchdog: ending the process\n",
            std::process::id()
        );
        // Not `eprintln!`: the test runner captures that, and would print it only at the end of the test.
        drop(std::io::stderr().write_all(report.as_bytes()));
        exit()
    }
}

/// Ends the process without running exit handlers, which may wait for what hangs.
#[cfg(target_os = "linux")]
fn exit() -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(EXIT_STATUS) }
}

#[cfg(not(target_os = "linux"))]
fn exit() -> ! {
    std::process::abort()
}
