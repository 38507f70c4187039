//! Watching ring kernels on a device: one thread that looks where nobody else does.
//!
//! A device cannot wake a thread of the host. Whoever waits for a ring kernel by spinning looks himself; for those that sleep, this
//! thread looks at the words that the device writes, and wakes them. It also minds the hearts: a ring kernel that
//! has stopped beating its heart is reported as lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::exchange::Words;
use crate::protocol::{STATE_IDLE, STATE_STOPPED};
use crate::tenant::{Stage, Tenant};

/// Between two looks at words that somebody waits for: at first, and after a while without anything.
const PACE: [Duration; 2] = [Duration::from_micros(10), Duration::from_micros(250)];
/// Between two looks at the hearts.
const HEARTS: Duration = Duration::from_millis(50);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What somebody waits to see changed.
struct Listening {
    waker: Waker,
    state: u32,
    /// None if he waits for the state alone.
    progress: Option<Progress>,
}

/// How far a ring kernel had come when somebody looked last.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    /// Messages that it was done with.
    pub(crate) done: u64,
    /// The ticket of the next event.
    pub(crate) event: u64,
}

/// A ring kernel that is watched.
pub(crate) struct Watched {
    words: Arc<Words>,
    stage: Arc<dyn Stage>,
    listening: Mutex<Option<Listening>>,
    /// Set once, with the text beside it.
    lost: AtomicBool,
    why: Mutex<String>,
    heart: Mutex<Heart>,
    tenant: OnceLock<Weak<Tenant>>,
}

/// The last beat that was seen, and when it was new.
struct Heart {
    beat: u64,
    seen: Instant,
}

impl Watched {
    pub(crate) fn new(words: Arc<Words>, stage: Arc<dyn Stage>) -> Arc<Self> {
        Arc::new(Self {
            words,
            stage,
            listening: Mutex::new(None),
            lost: AtomicBool::new(false),
            why: Mutex::default(),
            heart: Mutex::new(Heart { beat: 0, seen: Instant::now() }),
            tenant: OnceLock::new(),
        })
    }

    /// Called once, when there is one.
    pub(crate) fn set_tenant(&self, tenant: Weak<Tenant>) {
        let _ = self.tenant.set(tenant);
    }

    /// Brings it back from where it is away, for messages that nobody on the host has posted.
    fn bring_back(&self) {
        if let Some(tenant) = self.tenant.get().and_then(Weak::upgrade) {
            tenant.return_for_links();
        }
    }

    /// Why it is lost, if it is.
    pub(crate) fn lost(&self) -> Option<String> {
        // Acquire: the text was there before.
        self.lost.load(Ordering::Acquire).then(|| lock(&self.why).clone())
    }

    /// Reports it as lost. The first report stays.
    pub(crate) fn lose(&self, why: &str) {
        {
            let mut text = lock(&self.why);
            if !text.is_empty() {
                return;
            }
            why.clone_into(&mut text);
            self.lost.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// Wakes whoever waits.
    pub(crate) fn wake(&self) {
        let listening = lock(&self.listening).take();
        if let Some(Listening { waker, .. }) = listening {
            waker.wake();
        }
    }

    /// Whether somebody waits, and for nothing that has happened; wakes him if it has.
    fn look(&self) -> bool {
        let changed = match &*lock(&self.listening) {
            None => return false,
            Some(Listening { state, progress, .. }) => {
                self.words.control().device.state.load(Ordering::Relaxed) != *state
                    || progress.is_some_and(|progress| self.has_come_further(progress))
            }
        };
        if changed {
            self.wake();
        }
        !changed
    }

    fn has_come_further(&self, Progress { done, event }: Progress) -> bool {
        self.words.done() != done || self.words.event_word(event).load(Ordering::Relaxed) == event + 1
    }

    /// Whether its heart still beats, or need not.
    fn mind_heart(&self, patience: Duration) {
        if let Some(trouble) = self.stage.trouble() {
            self.lose(&trouble);
            return;
        }
        let device = &self.words.control().device;
        let beat = device.heartbeat.load(Ordering::Relaxed);
        let mut heart = lock(&self.heart);
        let rests = matches!(device.state.load(Ordering::Relaxed), STATE_STOPPED | STATE_IDLE);
        if rests || beat != heart.beat {
            *heart = Heart { beat, seen: Instant::now() };
            return;
        }
        let silent = heart.seen.elapsed();
        drop(heart);
        if silent > patience {
            let at = match device.in_hand.load(Ordering::Relaxed) {
                0 => String::from("between messages"),
                ticket => format!("in the handler, at message number {}", ticket - 1),
            };
            self.lose(&format!("its heart has not beaten for {silent:.1?}; it was {at}"));
        }
    }
}

/// The thread, and those that it watches.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
}

struct Shared {
    watched: Mutex<Vec<Weak<Watched>>>,
    /// Whether somebody has begun to listen since the last look.
    called: Mutex<bool>,
    calls: Condvar,
    over: AtomicBool,
}

impl Watcher {
    /// Starts the thread. `patience` is how long a heart may be silent.
    pub(crate) fn start(name: &str, patience: Duration) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            watched: Mutex::default(),
            called: Mutex::default(),
            calls: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let watching = Arc::clone(&shared);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || watching.run(patience))?;
        Ok(Arc::new(Self { shared }))
    }

    /// Watches this one too, until it is dropped.
    pub(crate) fn add(&self, watched: &Arc<Watched>) {
        lock(&self.shared.watched).push(Arc::downgrade(watched));
    }

    /// Has `waker` called once the device's state is another, or it has come further.
    pub(crate) fn listen(&self, watched: &Watched, waker: &Waker, state: u32, progress: Option<Progress>) {
        {
            let mut listening = lock(&watched.listening);
            match &mut *listening {
                // Nothing new: the same task looks again and again while it spins.
                Some(same) if same.waker.will_wake(waker) => {
                    (same.state, same.progress) = (state, progress);
                    return;
                }
                other => *other = Some(Listening { waker: waker.clone(), state, progress }),
            }
        }
        let mut called = lock(&self.shared.called);
        if !std::mem::replace(&mut *called, true) {
            self.shared.calls.notify_one();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.calls.notify_one();
    }
}

impl Shared {
    fn run(&self, patience: Duration) {
        let mut pace = PACE[0];
        let mut next_hearts = Instant::now();
        while !self.over.load(Ordering::Acquire) {
            let watched: Vec<Arc<Watched>> = {
                let mut watched = lock(&self.watched);
                watched.retain(|one| one.strong_count() > 0);
                watched.iter().filter_map(Weak::upgrade).collect()
            };
            watched.iter().for_each(|one| one.bring_back());
            let waiting = watched.iter().filter(|one| one.look()).count();
            if Instant::now() >= next_hearts {
                watched.iter().for_each(|one| one.mind_heart(patience));
                next_hearts = Instant::now() + HEARTS;
            }
            drop(watched);
            pace = if self.pause(waiting > 0, pace) { PACE[0] } else { (pace * 2).min(PACE[1]) };
        }
    }

    /// Pauses: for `pace` while somebody waits, and otherwise until somebody does or the hearts are due. True after a call.
    fn pause(&self, somebody_waits: bool, pace: Duration) -> bool {
        let called = lock(&self.called);
        let longest = if somebody_waits { pace } else { HEARTS };
        let pausing = self.calls.wait_timeout_while(called, longest, |called| !*called);
        let (mut called, _) = pausing.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *called)
    }
}
