//! Message priorities.

use std::fmt;

/// Priority of a message, from 0 (lowest) to 255 (highest); 128 by default.
///
/// A mailbox has four bands and pops from the highest band that is not empty. Within a band the order is first in, first out. The exact
/// number is part of the header, but only its band affects the order.
///
/// A band that waits gets its turn after 32 messages of higher bands, so that steady traffic does not starve the bands below. A system
/// message still comes before every turn. [`KernelOptions::band_order`](crate::options::KernelOptions::band_order) changes that.
///
/// | band | priorities | constant |
/// | --- | --- | --- |
/// | system | 224-255 | [`Priority::SYSTEM`] (240) |
/// | high | 160-223 | [`Priority::HIGH`] (192) |
/// | normal | 64-159 | [`Priority::NORMAL`] (128) |
/// | low | 0-63 | [`Priority::LOW`] (32) |
///
/// ```
/// use dotcompute_core::message::Priority;
///
/// assert_eq!(Priority::default(), Priority::NORMAL);
/// assert!(Priority::HIGH > Priority::from(150));
/// assert_eq!(u8::from(Priority::new(7)), 7);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The middle of the low band, 32: work that all other messages may overtake.
    pub const LOW: Self = Self(32);
    /// The default, 128.
    pub const NORMAL: Self = Self(128);
    /// The middle of the high band, 192: handled before normal messages.
    pub const HIGH: Self = Self(192);
    /// The middle of the system band, 240: control messages.
    pub const SYSTEM: Self = Self(240);

    /// Creates a priority; every number is valid.
    pub const fn new(value: u8) -> Self {
        Self(value)
    }

    /// Returns the number, 0 to 255.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl From<u8> for Priority {
    fn from(value: u8) -> Self {
        Self(value)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Priority({})", self.0)
    }
}
