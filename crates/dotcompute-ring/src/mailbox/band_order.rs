//! In which order the receiver pops the bands.

use super::band::{BANDS, Band};

/// In which order a receiver pops the bands of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BandOrder {
    /// Always the highest band that has a value. As long as higher bands have values, lower ones get nothing.
    Strict,
    /// The highest band that has a value, but a lower band gets its turn after `after` values of higher bands were popped since its last
    /// one. So every band gets at least one pop in about `after`, whatever the load of the others.
    ///
    /// A turn does not come before a value of the system band, unless that follows another one: a control message waits for no other
    /// band, and a stream of them starves none.
    Aged {
        /// Values of higher bands that are popped before a lower band gets its turn. Zero counts as 1, more than 32,767 as that.
        after: u16,
    },
}

impl Default for BandOrder {
    /// `Aged` after 32 values.
    fn default() -> Self {
        Self::Aged { after: 32 }
    }
}

/// Counts for each band the values of higher bands popped since its last turn.
///
/// Four lanes of 16 bits in one word, so that a pop costs one addition and one mask. The lane of a lower band starts at `0x8000 - after`:
/// its top bit is set once the band is due. Nothing is above the system band, so its lane holds whether the last value was from it.
#[derive(Debug)]
pub(super) struct BandClock {
    lanes: u64,
    start: u64,
}

const LANE_BITS: usize = 16;
const LANE: u64 = (1 << LANE_BITS) - 1;
const DUE: u64 = 0x8000 << LANE_BITS | 0x8000 << (2 * LANE_BITS) | 0x8000 << (3 * LANE_BITS);

const fn lane(band: usize) -> u64 {
    LANE << (band * LANE_BITS)
}

/// What a pop from each band adds: one to the lanes of all lower bands, and the mark of the system band.
const PASSED: [u64; BANDS] = [0x0001_0001_0001_0001, 0x0001_0001_0000_0000, 0x0001_0000_0000_0000, 0];

/// The lanes that a pop from each band keeps: not its own, and not the mark of the system band.
const KEPT: [u64; BANDS] = [!lane(0), !lane(0) & !lane(1), !lane(0) & !lane(2), !lane(0) & !lane(3)];

impl BandClock {
    /// `None` for [`BandOrder::Strict`].
    pub(super) fn new(order: BandOrder) -> Option<Self> {
        let BandOrder::Aged { after } = order else { return None };
        let start = 0x8000 - u64::from(after.clamp(1, 0x7fff));
        let lanes = start << LANE_BITS | start << (2 * LANE_BITS) | start << (3 * LANE_BITS);
        Some(Self { lanes, start: lanes })
    }

    /// Counts a pop from `band`.
    #[inline]
    pub(super) fn popped(&mut self, band: usize) {
        // A lane does not overflow into the next: a band that is due is served, or starts over, a few pops later.
        self.lanes = (self.lanes & KEPT[band]) + PASSED[band] + (self.start & lane(band));
    }

    /// Returns whether a lower band may be due.
    #[inline]
    pub(super) fn is_any_due(&self) -> bool {
        self.lanes & DUE != 0
    }

    /// Returns the band that is due for longest. `None` if none is due.
    pub(super) fn longest_due(&self) -> Option<usize> {
        // Reversed, because of equal bands `max_by_key` returns the last.
        let due = (Band::High as usize..BANDS).rev().filter(|&band| self.lanes & DUE & lane(band) != 0);
        due.max_by_key(|&band| self.lanes >> (band * LANE_BITS) & LANE)
    }

    /// A band that was due had no value: it starts over.
    pub(super) fn restart(&mut self, band: usize) {
        self.lanes = self.lanes & !lane(band) | self.start & lane(band);
    }

    /// Returns whether the last value was popped from the system band.
    pub(super) fn last_was_system(&self) -> bool {
        self.lanes & lane(Band::System as usize) != 0
    }
}
