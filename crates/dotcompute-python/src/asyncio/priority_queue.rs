//! Messages in the order in which they are to be taken.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Which messages come before which. Within a level they come out as they came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// All alike.
    Fifo,
    /// Four bands: System (224-255), High (160-223), Normal (64-159), Low (0-63).
    Bands,
    /// Each priority before all lower ones.
    Strict,
}

impl Order {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "fifo" => Ok(Order::Fifo),
            "bands" => Ok(Order::Bands),
            "strict" => Ok(Order::Strict),
            _ => Err(PyValueError::new_err(format!("the order '{name}' is none of fifo, bands, strict"))),
        }
    }

    /// The level of a priority; lower levels are taken first.
    pub(super) fn level(self, priority: u8) -> u8 {
        match self {
            Order::Fifo => 0,
            Order::Bands => match priority {
                224.. => 0,
                160.. => 1,
                64.. => 2,
                _ => 3,
            },
            Order::Strict => 255 - priority,
        }
    }

    fn levels(self) -> usize {
        match self {
            Order::Fifo => 1,
            Order::Bands => 4,
            Order::Strict => 256,
        }
    }
}

/// A queue for each level, and which of them hold something.
pub(super) struct Levels<T> {
    queues: Vec<VecDeque<T>>,
    /// A bit for each level.
    occupied: [u64; 4],
    len: usize,
}

impl<T> Levels<T> {
    pub(super) fn new(order: Order) -> Self {
        let mut queues = Vec::new();
        queues.resize_with(order.levels(), VecDeque::new);
        Levels { queues, occupied: [0; 4], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many wait at one level.
    pub(super) fn len_of(&self, level: usize) -> usize {
        self.queues.get(level).map_or(0, VecDeque::len)
    }

    pub(super) fn push_back(&mut self, level: u8, item: T) {
        self.queues[usize::from(level)].push_back(item);
        self.added(level);
    }

    /// Puts back what was taken, before all others of its level.
    pub(super) fn push_front(&mut self, level: u8, item: T) {
        self.queues[usize::from(level)].push_front(item);
        self.added(level);
    }

    fn added(&mut self, level: u8) {
        self.occupied[usize::from(level / 64)] |= 1 << (level % 64);
        self.len += 1;
    }

    /// Takes the oldest item of the first level that has one.
    pub(super) fn pop(&mut self) -> Option<T> {
        let word = self.occupied.iter().position(|bits| *bits != 0)?;
        let level = word * 64 + self.occupied[word].trailing_zeros() as usize;
        self.pop_of(level)
    }

    /// Takes the oldest item of the last level that has one: the one to drop.
    pub(super) fn pop_least(&mut self) -> Option<T> {
        let word = self.occupied.iter().rposition(|bits| *bits != 0)?;
        let level = word * 64 + 63 - self.occupied[word].leading_zeros() as usize;
        self.pop_of(level)
    }

    fn pop_of(&mut self, level: usize) -> Option<T> {
        let queue = &mut self.queues[level];
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.occupied[level / 64] &= !(1 << (level % 64));
        }
        self.len -= 1;
        Some(item)
    }

    /// Takes everything, in order.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.queues.iter().flatten()
    }
}
