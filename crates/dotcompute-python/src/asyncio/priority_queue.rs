//! A queue of messages by priority: FIFO, in four bands, or strictly by priority.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{ffi, intern};

/// The order in which messages are taken. Within a level, messages are FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// One level for all priorities.
    Fifo,
    /// Four bands: System (224-255), High (160-223), Normal (64-159), Low (0-63).
    Bands,
    /// One level per priority.
    Strict,
}

impl Order {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "fifo" => Ok(Order::Fifo),
            "bands" => Ok(Order::Bands),
            "strict" => Ok(Order::Strict),
            _ => Err(PyValueError::new_err(format!(
                "configuring a mailbox: '{name}' is not an order; use fifo, bands or strict"
            ))),
        }
    }

    /// Returns the level of a priority. Lower levels are taken first.
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

    /// Returns the level of a message. A message without the attribute `priority` has priority 128.
    ///
    /// # Errors
    ///
    /// The exception that reading the attribute raises, and `ValueError` for a priority outside 0 to 255.
    pub(super) fn level_of(self, message: &Bound<'_, PyAny>) -> PyResult<u8> {
        const NORMAL: u8 = 128;
        if self == Order::Fifo || is_builtin(message) {
            return Ok(self.level(NORMAL));
        }
        match message.getattr_opt(intern!(message.py(), "priority"))? {
            None => Ok(self.level(NORMAL)),
            Some(priority) => match priority.extract::<u8>() {
                Ok(priority) => Ok(self.level(priority)),
                Err(_) => {
                    Err(PyValueError::new_err(format!("Priority must be 0-255, got {}", priority.repr()?)))
                }
            },
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

/// Returns whether the type of an object is static, as those of numbers and strings are. None of these has a priority.
fn is_builtin(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: `object` is live and holds a reference to its type.
    let flags = unsafe { ffi::PyType_GetFlags(ffi::Py_TYPE(object.as_ptr())) };
    flags & ffi::Py_TPFLAGS_HEAPTYPE == 0
}

/// One FIFO queue per level, and a bitmap of the levels that are not empty.
pub(super) struct PriorityQueue<T> {
    queues: Vec<VecDeque<T>>,
    /// One bit per level.
    occupied: [u64; 4],
    len: usize,
}

impl<T> PriorityQueue<T> {
    pub(super) fn new(order: Order) -> Self {
        let mut queues = Vec::new();
        queues.resize_with(order.levels(), VecDeque::new);
        PriorityQueue { queues, occupied: [0; 4], len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of items at one level.
    pub(super) fn level_len(&self, level: usize) -> usize {
        self.queues.get(level).map_or(0, VecDeque::len)
    }

    pub(super) fn push_back(&mut self, level: u8, item: T) {
        self.queues[usize::from(level)].push_back(item);
        self.count_added(level);
    }

    /// Returns an item that was taken to the front of its level.
    pub(super) fn push_front(&mut self, level: u8, item: T) {
        self.queues[usize::from(level)].push_front(item);
        self.count_added(level);
    }

    fn count_added(&mut self, level: u8) {
        self.occupied[usize::from(level / 64)] |= 1 << (level % 64);
        self.len += 1;
    }

    /// Removes the oldest item of the most urgent level that is not empty.
    pub(super) fn pop(&mut self) -> Option<T> {
        let word = self.occupied.iter().position(|bits| *bits != 0)?;
        let level = word * 64 + self.occupied[word].trailing_zeros() as usize;
        self.pop_level(level)
    }

    /// Removes the oldest item of the least urgent level that is not empty: the item that a full mailbox drops.
    pub(super) fn pop_lowest(&mut self) -> Option<T> {
        let word = self.occupied.iter().rposition(|bits| *bits != 0)?;
        let level = word * 64 + 63 - self.occupied[word].leading_zeros() as usize;
        self.pop_level(level)
    }

    fn pop_level(&mut self, level: usize) -> Option<T> {
        let queue = &mut self.queues[level];
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.occupied[level / 64] &= !(1 << (level % 64));
        }
        self.len -= 1;
        Some(item)
    }

    /// Removes the first item for which `matches` holds.
    pub(super) fn remove(&mut self, mut matches: impl FnMut(&T) -> bool) -> Option<T> {
        for (level, queue) in self.queues.iter_mut().enumerate() {
            if let Some(item) =
                queue.iter().position(&mut matches).and_then(|position| queue.remove(position))
            {
                if queue.is_empty() {
                    self.occupied[level / 64] &= !(1 << (level % 64));
                }
                self.len -= 1;
                return Some(item);
            }
        }
        None
    }

    /// Removes all items, in order.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.queues.iter().flatten()
    }
}
