//! Which elements of one half are newer than the other's.

use std::ops::Range;

/// So many ranges are kept apart at most: each is a copy of its own, and beyond that the ones with the smallest gap between them become one.
pub const MAX_DIRTY_RANGES: usize = 32;

/// A set of elements, as ranges in order that neither touch nor overlap; at most [`MAX_DIRTY_RANGES`] of them.
///
/// With more, gaps are taken in, the smallest first. That is harmless: what lies in a gap is equal on both sides.
///
/// ```
/// use dotcompute_core::memory::DirtyRanges;
///
/// let mut dirty = DirtyRanges::default();
/// dirty.insert(0..2);
/// dirty.insert(6..8);
/// dirty.insert(2..3);
/// assert_eq!(dirty.as_slice(), [0..3, 6..8]);
/// dirty.remove(1..7);
/// assert_eq!(dirty.as_slice(), [0..1, 7..8]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyRanges(Vec<Range<usize>>);

impl DirtyRanges {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        // Those that it touches: they become one with it.
        let first = self.0.partition_point(|other| other.end < range.start);
        let last = self.0.partition_point(|other| other.start <= range.end);
        let mut merged = range;
        if let (Some(left), Some(right)) = (self.0[first..last].first(), self.0[first..last].last()) {
            merged = merged.start.min(left.start)..merged.end.max(right.end);
        }
        self.0.splice(first..last, [merged]);
        if self.0.len() > MAX_DIRTY_RANGES {
            self.take_in_smallest_gap();
        }
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end <= range.start);
        let last = self.0.partition_point(|other| other.start < range.end);
        let mut left = Vec::with_capacity(2);
        if let (Some(from), Some(to)) = (self.0[first..last].first(), self.0[first..last].last()) {
            left.extend(
                [from.start..range.start, range.end..to.end].into_iter().filter(|part| !part.is_empty()),
            );
        }
        self.0.splice(first..last, left);
        if self.0.len() > MAX_DIRTY_RANGES {
            self.take_in_smallest_gap();
        }
    }

    /// Takes the last range out.
    pub fn pop(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<usize>] {
        &self.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many elements they have together.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    fn take_in_smallest_gap(&mut self) {
        let gap = |at: &usize| self.0[at + 1].start - self.0[*at].end;
        if let Some(at) = (0..self.0.len().saturating_sub(1)).min_by_key(gap) {
            self.0[at].end = self.0.remove(at + 1).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 300;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_set_of_what_was_put_in_and_not_taken_out(
            ops in prop::collection::vec((any::<bool>(), 0..LEN, 0..20_usize), 0..120)
        ) {
            let mut ranges = DirtyRanges::default();
            let mut model = [false; LEN];
            let mut most = 0;
            for (inserts, start, len) in ops {
                let range = start..(start + len).min(LEN);
                if inserts { ranges.insert(range.clone()) } else { ranges.remove(range.clone()) }
                model[range].fill(inserts);
                most = most.max(model.chunk_by(|a, b| a == b).filter(|run| run[0]).count());

                let mut found = [false; LEN];
                for range in ranges.as_slice() {
                    prop_assert!(!range.is_empty());
                    found[range.clone()].fill(true);
                }
                prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
                prop_assert!(ranges.as_slice().len() <= MAX_DIRTY_RANGES);
                prop_assert!(found.iter().zip(&model).all(|(found, wanted)| found >= wanted), "{:?}", ranges);
                if most <= MAX_DIRTY_RANGES {
                    prop_assert_eq!(found, model);
                }
                prop_assert_eq!(ranges.elements(), found.iter().filter(|found| **found).count());
            }
        }
    }

    #[test]
    fn with_too_many_the_smallest_gap_goes_first() {
        let mut ranges = DirtyRanges::default();
        // Gaps of 9 but for one of 3, between the sixth and the seventh.
        for index in 0..=MAX_DIRTY_RANGES {
            let start = index * 10 - if index > 5 { 6 } else { 0 };
            ranges.insert(start..start + 1);
        }
        assert_eq!(ranges.as_slice().len(), MAX_DIRTY_RANGES);
        assert_eq!(ranges.as_slice()[5], 50..55);
        assert_eq!(ranges.elements(), MAX_DIRTY_RANGES + 1 + 3);
    }
}
