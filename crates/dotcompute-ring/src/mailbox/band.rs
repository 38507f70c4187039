//! The priority bands of a mailbox.

/// Number of bands.
pub(super) const BANDS: usize = 4;

/// A priority band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Band {
    /// Priorities 224 to 255.
    System = 0,
    /// Priorities 160 to 223.
    High = 1,
    /// Priorities 64 to 159.
    Normal = 2,
    /// Priorities 0 to 63.
    Low = 3,
}

impl Band {
    /// Returns the band of a priority.
    #[inline]
    #[must_use]
    pub const fn of(priority: u8) -> Self {
        match priority {
            224.. => Self::System,
            160..=223 => Self::High,
            64..=159 => Self::Normal,
            ..=63 => Self::Low,
        }
    }
}
