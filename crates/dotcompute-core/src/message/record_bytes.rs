//! Records whose type exists only at run time.

use super::Message;

/// Bytes of a record that fit into the message itself; larger ones are on the heap.
const INLINE: usize = 64;

/// The bytes of a record whose layout is not a Rust type: another language has declared it, and only its size matters here.
///
/// Aligned to 8, which is as much as any number in a record asks for. Up to 64 bytes lie in the value itself, so that making and sending
/// a small record allocates nothing.
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
    /// A record of so many bytes, all zero.
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

    /// A record of these bytes.
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

    /// The bytes, in the order of the machine's memory.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: there are at least `len` bytes in the words (both constructors see to it), all initialised; any byte is a `u8`.
        unsafe { std::slice::from_raw_parts(self.words().as_ptr().cast(), self.len) }
    }

    /// The bytes, to be written.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let words: &mut [u64] = match &mut self.words {
            Words::Inline(words) => words,
            Words::Heap(words) => words,
        };
        // SAFETY: as in `as_slice`, and any bytes make a `u64`; the borrow is unique.
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
    fn bytes_come_back_at_every_size_around_the_inline_one() {
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
