//! Ends the process with a report when a call does not end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A call that takes longer hangs: the calls of a round have timeouts of milliseconds, or end with its runtime.
const LIMIT: Duration = Duration::from_secs(60);

/// A call, the ring kernel that it is made on, and when it began.
type Doing = (&'static str, String, Instant);

/// What each thread does at present.
pub struct Watchdog {
    round: AtomicU64,
    threads: Vec<Mutex<Option<Doing>>>,
}

impl Watchdog {
    /// Starts the thread that watches `threads` calling threads, and the main thread as the last one.
    pub fn start(seed: u64, threads: usize) -> Arc<Self> {
        let watchdog = Arc::new(Self {
            round: AtomicU64::new(0),
            threads: (0..=threads).map(|_| Mutex::default()).collect(),
        });
        let watched = Arc::clone(&watchdog);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                watched.check(seed);
            }
        });
        watchdog
    }

    /// The number of calling threads.
    pub fn callers(&self) -> usize {
        self.threads.len() - 1
    }

    pub fn begin_round(&self, round: u64) {
        self.round.store(round, Ordering::Relaxed);
    }

    /// Runs a call of a thread under watch. The thread after the callers is the main thread.
    pub fn watch<T>(&self, thread: usize, call: &'static str, on: &str, run: impl FnOnce() -> T) -> T {
        let set = |doing| *self.threads[thread].lock().unwrap_or_else(PoisonError::into_inner) = doing;
        set(Some((call, on.to_owned(), Instant::now())));
        let result = run();
        set(None);
        result
    }

    fn check(&self, seed: u64) {
        let doing: Vec<_> = self
            .threads
            .iter()
            .map(|thread| thread.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect();
        if !doing.iter().flatten().any(|(_, _, since)| since.elapsed() > LIMIT) {
            return;
        }
        eprintln!(
            "error: round {} of seed {seed}: a call did not end within {LIMIT:?}",
            self.round.load(Ordering::Relaxed)
        );
        for (thread, doing) in doing.iter().enumerate() {
            match doing {
                Some((call, on, since)) => {
                    eprintln!("  thread {thread}: `{call}` on {on} for {:?}", since.elapsed());
                }
                None => eprintln!("  thread {thread}: nothing"),
            }
        }
        eprintln!(
            "hint: `gdb -p {}` shows every thread; the process waits a minute for it",
            std::process::id()
        );
        std::thread::sleep(Duration::from_secs(60));
        std::process::exit(1);
    }
}
