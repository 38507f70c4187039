//! Values that count their drops, for the tests of cases known from peer crates.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of values dropped.
#[derive(Clone, Default)]
pub struct Drops(Arc<AtomicUsize>);

impl Drops {
    pub fn value(&self, number: usize) -> Counted {
        Counted { number, panics: false, drops: self.clone() }
    }

    /// A value whose `drop` panics after it has been counted.
    pub fn panicking_value(&self, number: usize) -> Counted {
        Counted { number, panics: true, drops: self.clone() }
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Counted {
    pub number: usize,
    panics: bool,
    drops: Drops,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.0.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics || std::thread::panicking(), "the drop of value {} panics", self.number);
    }
}
