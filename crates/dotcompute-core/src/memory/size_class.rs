//! Size classes: the sizes that a pool rounds requests up to.

use super::ALIGN;

/// Returns the size class of `bytes`; `None` if it cannot be addressed.
///
/// Each doubling has four classes. Beyond the first few hundred bytes, rounding adds at most a quarter of the request.
pub(super) fn class_of(bytes: usize) -> Option<usize> {
    if bytes <= 4 * ALIGN {
        return Some(bytes.max(1).next_multiple_of(ALIGN));
    }
    // A quarter of the greatest power of two below `bytes`.
    let step = 1 << ((bytes - 1).ilog2() - 2);
    bytes.checked_next_multiple_of(step)
}

/// Returns the greatest size class that is at most `bytes`.
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
    fn a_class_is_its_own_class_and_wastes_at_most_a_quarter() {
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
            // There is no class between them.
            assert!(within == class || class_of(within + 1) == Some(class), "{bytes}: {within}, {class}");
        }
        assert_eq!(class_of(0), Some(ALIGN));
        assert_eq!(class_of(usize::MAX), None);
    }
}
