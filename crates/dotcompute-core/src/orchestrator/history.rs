//! What was launched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Geometry;

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Its number among all launches of its orchestrator, from 0.
    pub number: u64,
    /// The kernel.
    pub kernel: Arc<str>,
    /// How many threads.
    pub geometry: Geometry,
    /// When it began.
    pub at: SystemTime,
    /// How long it took to bring the buffers up to date on the device.
    pub prepare_time: Duration,
    /// Bytes that were copied for that.
    pub copied_bytes: u64,
    /// How long the kernel ran, measured where it ran. Zero if it did not.
    pub kernel_time: Duration,
    /// How long all of it took.
    pub total: Duration,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

impl Launch {
    pub(super) fn new(kernel: Arc<str>, geometry: Geometry, at: SystemTime) -> Self {
        let none = Duration::ZERO;
        Self {
            number: 0,
            kernel,
            geometry,
            at,
            prepare_time: none,
            copied_bytes: 0,
            kernel_time: none,
            total: none,
            error: None,
        }
    }
}

/// The last launches.
#[derive(Debug)]
pub(super) struct History {
    launches: VecDeque<Launch>,
    most: usize,
    next: u64,
}

impl History {
    pub(super) fn new(most: usize) -> Self {
        Self { launches: VecDeque::new(), most, next: 0 }
    }

    /// Numbers a launch and remembers it.
    pub(super) fn add(&mut self, launch: &mut Launch) {
        launch.number = self.next;
        self.next += 1;
        if self.most == 0 {
            return;
        }
        if self.launches.len() == self.most {
            self.launches.pop_front();
        }
        self.launches.push_back(launch.clone());
    }

    pub(super) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.launches.iter()
    }

    pub(super) fn clear(&mut self) {
        self.launches.clear();
    }
}
