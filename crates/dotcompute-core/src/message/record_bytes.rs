//! Records whose type is known only at run time.

use super::Message;

/// Bytes that a record stores inline; larger records are on the heap.
const INLINE: usize = 64;

/// The bytes of a record whose layout another language has declared: only its size is known here.
///
/// The bytes are aligned to 8, the greatest alignment of a number in a record. Up to 64 bytes are stored inline, so creating and sending a
/// small record allocates nothing.
///
/// ```
/// use dotcompute_core::message::record::RecordBytes;
///
/// let mut record = RecordBytes::zeroed(12);
/// record.as_mut_slice()[..4].copy_from_slice(&7u32.to_le_bytes());
/// assert_eq!(record.as_slice().len(), 12);
/// assert_eq!(RecordBytes::from_slice(record.as_slice()), record);
/// ```
#[derive(Clone)]
pub struct RecordBytes {
    len: usize,
    words: Words,
}

#[derive(Clone)]
enum Words {
    Inline([u64; INLINE / 8]),
    Heap(Box<[u64]>),
}

impl RecordBytes {
    /// Creates a record of `len` zero bytes.
    #[inline]
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let words = if len <= INLINE {
            Words::Inline([0; INLINE / 8])
        } else {
            Words::Heap(vec![0; len.div_ceil(8)].into_boxed_slice())
        };
        Self { len, words }
    }

    /// Creates a record with a copy of `bytes`.
    #[inline]
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut record = Self::zeroed(bytes.len());
        record.as_mut_slice().copy_from_slice(bytes);
        record
    }

    fn words(&self) -> &[u64] {
        match &self.words {
            Words::Inline(words) => words,
            Words::Heap(words) => words,
        }
    }

    /// Returns the bytes in memory order.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `zeroed` allocates words of at least `len` bytes in total, all initialized, and `len` never changes.
        unsafe { std::slice::from_raw_parts(self.words().as_ptr().cast(), self.len) }
    }

    /// Returns the bytes for writing.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let words: &mut [u64] = match &mut self.words {
            Words::Inline(words) => words,
            Words::Heap(words) => words,
        };
        // SAFETY: `zeroed` allocates words of at least `len` bytes in total. Every bit pattern is a valid `u64`, and the mutable borrow is
        // exclusive.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), self.len) }
    }
}

impl PartialEq for RecordBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for RecordBytes {}

impl std::fmt::Debug for RecordBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RecordBytes").field(&self.as_slice()).finish()
    }
}

impl Message for RecordBytes {
    const TYPE_NAME: &'static str = "record";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_below_and_above_the_inline_size() {
        for len in [0, 1, 7, 8, 63, INLINE, INLINE + 1, 1000] {
            let bytes: Vec<u8> = (0..len).map(|index| (index * 7 % 251) as u8).collect();
            let record = RecordBytes::from_slice(&bytes);
            assert_eq!(record.as_slice(), bytes);
            assert_eq!(record.clone(), record);
            assert!(record.as_slice().as_ptr().addr().is_multiple_of(8), "aligned");
            assert!(RecordBytes::zeroed(len).as_slice().iter().all(|&byte| byte == 0));
        }
        assert_ne!(RecordBytes::zeroed(3), RecordBytes::zeroed(4));
    }
}
