//! Elements of one copy of a buffer that are stale in the other copy.

use std::ops::Range;

/// Maximum number of dirty ranges. Each range is copied separately; beyond this number, the two ranges with the smallest gap between them
/// are merged.
pub const MAX_DIRTY_RANGES: usize = 32;

/// A set of element indices, stored as at most [`MAX_DIRTY_RANGES`] sorted ranges that neither touch nor overlap.
///
/// When there are more ranges, the smallest gaps are merged first. This is harmless: elements in a gap are equal in both copies.
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
        // Ranges that `range` touches or overlaps: they are merged into it.
        let first = self.0.partition_point(|other| other.end < range.start);
        let last = self.0.partition_point(|other| other.start <= range.end);
        let mut merged = range;
        if let (Some(left), Some(right)) = (self.0[first..last].first(), self.0[first..last].last()) {
            merged = merged.start.min(left.start)..merged.end.max(right.end);
        }
        self.0.splice(first..last, [merged]);
        if self.0.len() > MAX_DIRTY_RANGES {
            self.merge_smallest_gap();
        }
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|other| other.end <= range.start);
        let last = self.0.partition_point(|other| other.start < range.end);
        let mut remaining = Vec::with_capacity(2);
        if let (Some(from), Some(to)) = (self.0[first..last].first(), self.0[first..last].last()) {
            remaining.extend(
                [from.start..range.start, range.end..to.end].into_iter().filter(|part| !part.is_empty()),
            );
        }
        self.0.splice(first..last, remaining);
        if self.0.len() > MAX_DIRTY_RANGES {
            self.merge_smallest_gap();
        }
    }

    /// Removes and returns the last range.
    pub fn pop(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// Returns the ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[Range<usize>] {
        &self.0
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of elements in all ranges.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    fn merge_smallest_gap(&mut self) {
        let gap = |index: &usize| self.0[index + 1].start - self.0[*index].end;
        if let Some(index) = (0..self.0.len().saturating_sub(1)).min_by_key(gap) {
            self.0[index].end = self.0.remove(index + 1).end;
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
        fn it_agrees_with_a_set_of_indices(
            ops in prop::collection::vec((any::<bool>(), 0..LEN, 0..20_usize), 0..120)
        ) {
            let mut ranges = DirtyRanges::default();
            let mut model = [false; LEN];
            let mut max_runs = 0;
            for (inserts, start, len) in ops {
                let range = start..(start + len).min(LEN);
                if inserts { ranges.insert(range.clone()) } else { ranges.remove(range.clone()) }
                model[range].fill(inserts);
                max_runs = max_runs.max(model.chunk_by(|a, b| a == b).filter(|run| run[0]).count());

                let mut found = [false; LEN];
                for range in ranges.as_slice() {
                    prop_assert!(!range.is_empty());
                    found[range.clone()].fill(true);
                }
                prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
                prop_assert!(ranges.as_slice().len() <= MAX_DIRTY_RANGES);
                prop_assert!(found.iter().zip(&model).all(|(found, expected)| found >= expected), "{:?}", ranges);
                if max_runs <= MAX_DIRTY_RANGES {
                    prop_assert_eq!(found, model);
                }
                prop_assert_eq!(ranges.elements(), found.iter().filter(|found| **found).count());
            }
        }
    }

    #[test]
    fn beyond_the_maximum_the_smallest_gap_is_merged_first() {
        let mut ranges = DirtyRanges::default();
        // All gaps are 9, except one of 3 between the sixth and the seventh range.
        for index in 0..=MAX_DIRTY_RANGES {
            let start = index * 10 - if index > 5 { 6 } else { 0 };
            ranges.insert(start..start + 1);
        }
        assert_eq!(ranges.as_slice().len(), MAX_DIRTY_RANGES);
        assert_eq!(ranges.as_slice()[5], 50..55);
        assert_eq!(ranges.elements(), MAX_DIRTY_RANGES + 1 + 3);
    }
}
