//! The history of launches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Geometry;

/// A record of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Sequence number among all launches of the orchestrator, from 0.
    pub number: u64,
    /// The kernel.
    pub kernel: Arc<str>,
    /// The launch geometry.
    pub geometry: Geometry,
    /// Time at which the launch began.
    pub at: SystemTime,
    /// Time spent bringing the buffers up to date on the device.
    pub prepare_time: Duration,
    /// Bytes copied to the device meanwhile.
    pub copied_bytes: u64,
    /// Run time of the kernel, measured on the device. Zero if it did not run.
    pub kernel_time: Duration,
    /// Time of the whole launch.
    pub total: Duration,
    /// The error, if the launch failed.
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

/// The most recent launches, at most `capacity` of them.
#[derive(Debug)]
pub(super) struct History {
    launches: VecDeque<Launch>,
    capacity: usize,
    next: u64,
}

impl History {
    pub(super) fn new(capacity: usize) -> Self {
        Self { launches: VecDeque::new(), capacity, next: 0 }
    }

    /// Sets the launch's sequence number and records it.
    pub(super) fn add(&mut self, launch: &mut Launch) {
        launch.number = self.next;
        self.next += 1;
        if self.capacity == 0 {
            return;
        }
        if self.launches.len() == self.capacity {
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
