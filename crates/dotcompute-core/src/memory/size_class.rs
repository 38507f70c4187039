//! Size classes: what requests of a pool are rounded up to.

use super::ALIGN;

/// The size class of so many bytes: there are four to each doubling, so that at most a quarter more is taken than was asked for
/// (beyond the first few hundred bytes). None if it cannot be addressed.
pub(super) fn class_of(bytes: usize) -> Option<usize> {
    if bytes <= 4 * ALIGN {
        return Some(bytes.max(1).next_multiple_of(ALIGN));
    }
    // A quarter of the power of two that is not above it.
    let step = 1 << ((bytes - 1).ilog2() - 2);
    bytes.checked_next_multiple_of(step)
}

/// The largest size class within so many bytes.
pub(super) fn class_within(bytes: usize) -> usize {
    if bytes < 4 * ALIGN {
        return bytes - bytes % ALIGN;
    }
    bytes - bytes % (1 << (bytes.ilog2() - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_a_quarter_at_most_and_are_their_own() {
        for bytes in (1..20_000).chain([1 << 30, (1 << 30) + 1, usize::MAX / 2]) {
            let class = class_of(bytes).unwrap();
            assert!(class >= bytes && class.is_multiple_of(ALIGN), "{bytes}");
            assert!(bytes < 4 * ALIGN || (class - bytes) * 4 <= bytes, "{bytes} became {class}");
            assert_eq!(class_of(class), Some(class));
            assert_eq!(class_within(class), class);
            let within = class_within(bytes);
            assert!(
                within <= bytes && (within == 0 || class_of(within) == Some(within)),
                "{bytes}: {within}"
            );
            // There is no class between.
            assert!(within == class || class_of(within + 1) == Some(class), "{bytes}: {within}, {class}");
        }
        assert_eq!(class_of(0), Some(ALIGN));
        assert_eq!(class_of(usize::MAX), None);
    }
}
