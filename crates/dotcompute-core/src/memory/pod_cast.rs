//! Elements as bytes and bytes as elements.

use crate::message::record::Plain;

/// The bytes of elements, as they lie in memory.
pub(super) fn bytes<T: Plain>(elements: &[T]) -> &[u8] {
    // SAFETY: plain elements have no padding, so each byte is initialised; the slice lives as long as the borrow.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// As [`bytes`], to write to.
pub(super) fn bytes_mut<T: Plain>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: as for `bytes`; every pattern of bytes is a value of plain elements, so whatever is written is one.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

/// The elements that these bytes are; none if they lie so that they cannot be any.
pub(crate) fn elements<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every pattern of bytes is a value of a plain `T`.
    let (before, elements, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

/// As [`elements`], to write to.
pub(crate) fn elements_mut<T: Plain>(bytes: &mut [u8]) -> Option<&mut [T]> {
    // SAFETY: as for `elements`; and plain elements have no padding, so what is written to them are initialised bytes.
    let (before, elements, after) = unsafe { bytes.align_to_mut::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut numbers = [1_u32, 2, 3];
        bytes_mut(&mut numbers)[4] = 7;
        assert_eq!(elements::<u32>(bytes(&numbers)).unwrap(), numbers);
        assert!(numbers[1] == u32::from_le_bytes([7, 0, 0, 0]) || cfg!(target_endian = "big"));
        assert_eq!(elements::<u32>(&bytes(&numbers)[1..5]), None, "at an odd place");
        assert_eq!(elements_mut::<u32>(&mut bytes_mut(&mut numbers)[0..5]), None, "a part of one");
    }
}
