//! Casts between slices of plain elements and slices of bytes.

use crate::message::record::Plain;

/// Returns the bytes of elements in memory order.
pub(super) fn bytes<T: Plain>(elements: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so each byte is initialized. The slice has the lifetime of the borrow.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Returns the bytes of elements in memory order, for writing.
pub(super) fn bytes_mut<T: Plain>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` types have no padding, so each byte is initialized. Every bit pattern is a valid value of a `Plain` type, so no write
    // through this slice makes an element invalid. The mutable borrow is exclusive for the slice's lifetime.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

/// Returns the bytes as elements; `None` if they are not aligned for `T`, or if their length is not a multiple of its size.
pub(crate) fn elements<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every bit pattern is a valid value of a `Plain` type.
    let (before, elements, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

/// As [`elements`], for writing.
pub(crate) fn elements_mut<T: Plain>(bytes: &mut [u8]) -> Option<&mut [T]> {
    // SAFETY: every bit pattern is a valid value of a `Plain` type. `Plain` types have no padding, so writes of elements leave each byte
    // initialized.
    let (before, elements, after) = unsafe { bytes.align_to_mut::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_round_trip() {
        let mut numbers = [1_u32, 2, 3];
        bytes_mut(&mut numbers)[4] = 7;
        assert_eq!(elements::<u32>(bytes(&numbers)).unwrap(), numbers);
        assert!(numbers[1] == u32::from_le_bytes([7, 0, 0, 0]) || cfg!(target_endian = "big"));
        assert_eq!(elements::<u32>(&bytes(&numbers)[1..5]), None, "at an odd address");
        assert_eq!(elements_mut::<u32>(&mut bytes_mut(&mut numbers)[0..5]), None, "a part of an element");
    }
}
