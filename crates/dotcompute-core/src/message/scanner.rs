//! Validating scan of MessagePack: rejects malformed bytes before any value is built from them.

use rmp::Marker;

/// Scanner over MessagePack bytes. It checks each length against the remaining bytes before use, and keeps its own bounded stack. A hostile
/// length or depth can therefore neither allocate memory nor overflow the stack.
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The header of a value. For all values but containers, it includes the content.
pub enum ValueHeader<'a> {
    /// A string's bytes, not yet checked to be UTF-8.
    Str(&'a [u8]),
    /// An array; this many values follow.
    Array(u32),
    /// A map; this many pairs of values follow.
    Map(u32),
    /// Anything else.
    Other,
}

/// A position at which bytes are not valid MessagePack.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanError {
    /// Offset of the invalid value.
    pub offset: usize,
    pub kind: ScanErrorKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ScanErrorKind {
    /// At least `needed` bytes must follow, but only `remaining` do.
    Truncated { needed: u64, remaining: usize },
    /// The byte 0xc1, which starts no MessagePack value.
    Reserved,
    /// Containers are nested more deeply than the limit.
    TooDeep,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the offset of the next value.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Returns the number of remaining bytes.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Reads the header of a value. For a container, the next calls read its values.
    pub fn header(&mut self) -> Result<ValueHeader<'a>, ScanError> {
        let start = self.at;
        let marker = Marker::from_u8(self.number(start, 1)? as u8);
        Ok(match marker {
            Marker::Null | Marker::False | Marker::True | Marker::FixPos(_) | Marker::FixNeg(_) => {
                ValueHeader::Other
            }
            Marker::U8 | Marker::I8 => self.skip_content(start, 1)?,
            Marker::U16 | Marker::I16 | Marker::FixExt1 => self.skip_content(start, 2)?,
            Marker::FixExt2 => self.skip_content(start, 3)?,
            Marker::U32 | Marker::I32 | Marker::F32 => self.skip_content(start, 4)?,
            Marker::FixExt4 => self.skip_content(start, 5)?,
            Marker::U64 | Marker::I64 | Marker::F64 => self.skip_content(start, 8)?,
            Marker::FixExt8 => self.skip_content(start, 9)?,
            Marker::FixExt16 => self.skip_content(start, 17)?,
            Marker::Bin8 => self.skip_prefixed(start, 1, 0)?,
            Marker::Bin16 => self.skip_prefixed(start, 2, 0)?,
            Marker::Bin32 => self.skip_prefixed(start, 4, 0)?,
            // The type byte of an extension follows the length, which does not include it.
            Marker::Ext8 => self.skip_prefixed(start, 1, 1)?,
            Marker::Ext16 => self.skip_prefixed(start, 2, 1)?,
            Marker::Ext32 => self.skip_prefixed(start, 4, 1)?,
            Marker::FixStr(len) => ValueHeader::Str(self.take(start, len.into())?),
            Marker::Str8 => self.string(start, 1)?,
            Marker::Str16 => self.string(start, 2)?,
            Marker::Str32 => self.string(start, 4)?,
            Marker::FixArray(len) => self.container(start, len.into(), 1).map(ValueHeader::Array)?,
            Marker::Array16 => self.long_container(start, 2, 1).map(ValueHeader::Array)?,
            Marker::Array32 => self.long_container(start, 4, 1).map(ValueHeader::Array)?,
            Marker::FixMap(len) => self.container(start, len.into(), 2).map(ValueHeader::Map)?,
            Marker::Map16 => self.long_container(start, 2, 2).map(ValueHeader::Map)?,
            Marker::Map32 => self.long_container(start, 4, 2).map(ValueHeader::Map)?,
            Marker::Reserved => return Err(ScanError { offset: start, kind: ScanErrorKind::Reserved }),
        })
    }

    /// Skips one whole value and returns its bytes. Its containers may be nested `max_depth` deep.
    pub fn skip(&mut self, max_depth: usize) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        // Number of remaining values of each open container, outermost first.
        let mut open: Vec<u64> = Vec::new();
        loop {
            let offset = self.at;
            let inside = match self.header()? {
                ValueHeader::Array(len) => Some(u64::from(len)),
                ValueHeader::Map(len) => Some(2 * u64::from(len)),
                ValueHeader::Str(_) | ValueHeader::Other => None,
            };
            if let Some(count) = inside {
                if open.len() == max_depth {
                    return Err(ScanError { offset, kind: ScanErrorKind::TooDeep });
                }
                if count > 0 {
                    open.push(count);
                    continue;
                }
            }
            // A value has ended, and with it each container of which it is the last value.
            loop {
                let Some(remaining) = open.last_mut() else { return Ok(&self.bytes[start..self.at]) };
                *remaining -= 1;
                if *remaining > 0 {
                    break;
                }
                open.pop();
            }
        }
    }

    /// Takes the next `len` bytes; `start` is the offset of their value, for errors.
    fn take(&mut self, start: usize, len: u64) -> Result<&'a [u8], ScanError> {
        let remaining = self.remaining();
        match usize::try_from(len).ok().filter(|&len| len <= remaining) {
            Some(len) => {
                let taken = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(taken)
            }
            None => {
                Err(ScanError { offset: start, kind: ScanErrorKind::Truncated { needed: len, remaining } })
            }
        }
    }

    /// Takes the next `width` bytes as a big-endian number.
    fn number(&mut self, start: usize, width: u64) -> Result<u32, ScanError> {
        Ok(self.take(start, width)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn skip_content(&mut self, start: usize, len: u64) -> Result<ValueHeader<'a>, ScanError> {
        self.take(start, len)?;
        Ok(ValueHeader::Other)
    }

    fn skip_prefixed(
        &mut self,
        start: usize,
        width: u64,
        uncounted: u64,
    ) -> Result<ValueHeader<'a>, ScanError> {
        let len = u64::from(self.number(start, width)?) + uncounted;
        self.skip_content(start, len)
    }

    fn string(&mut self, start: usize, width: u64) -> Result<ValueHeader<'a>, ScanError> {
        let len = self.number(start, width)?;
        Ok(ValueHeader::Str(self.take(start, len.into())?))
    }

    fn long_container(&mut self, start: usize, width: u64, values_each: u64) -> Result<u32, ScanError> {
        let len = self.number(start, width)?;
        self.container(start, len, values_each)
    }

    /// Checks that the values of a container can fit into the remaining bytes: the shortest value is one byte.
    fn container(&self, start: usize, len: u32, values_each: u64) -> Result<u32, ScanError> {
        let needed = u64::from(len) * values_each;
        if needed > self.remaining() as u64 {
            return Err(ScanError {
                offset: start,
                kind: ScanErrorKind::Truncated { needed, remaining: self.remaining() },
            });
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8], max_depth: usize) -> Result<usize, ScanError> {
        Scanner::new(bytes).skip(max_depth).map(<[u8]>::len)
    }

    #[test]
    fn every_kind_of_value_has_its_length() {
        let values: &[&[u8]] = &[
            &[0x00],
            &[0xff],
            &[0xc0],
            &[0xcc, 1],
            &[0xcd, 1, 2],
            &[0xce, 1, 2, 3, 4],
            &[0xcf, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xca, 0, 0, 0, 0],
            &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xa2, b'h', b'i'],
            &[0xd9, 1, b'x'],
            &[0xda, 0, 1, b'x'],
            &[0xdb, 0, 0, 0, 1, b'x'],
            &[0xc4, 1, 9],
            &[0xc5, 0, 1, 9],
            &[0xc6, 0, 0, 0, 1, 9],
            &[0xd4, 5, 9],
            &[0xd5, 5, 9, 9],
            &[0xc7, 1, 5, 9],
            &[0xc8, 0, 1, 5, 9],
            &[0xc9, 0, 0, 0, 1, 5, 9],
            &[0x92, 1, 0x91, 2],
            &[0xdc, 0, 1, 7],
            &[0xdd, 0, 0, 0, 1, 7],
            &[0x81, 0xa1, b'k', 0x90],
            &[0xde, 0, 1, 1, 2],
            &[0xdf, 0, 0, 0, 1, 1, 0x80],
        ];
        for value in values {
            assert_eq!(skip(value, 8), Ok(value.len()), "{value:02x?}");
            for cut in 0..value.len() {
                assert!(
                    matches!(
                        skip(&value[..cut], 8),
                        Err(ScanError { kind: ScanErrorKind::Truncated { .. }, .. })
                    ),
                    "{value:02x?} cut to {cut} bytes"
                );
            }
            let mut longer = value.to_vec();
            longer.push(0xc1);
            assert_eq!(skip(&longer, 8), Ok(value.len()), "bytes after the value are ignored");
        }
    }

    #[test]
    fn a_hostile_length_is_rejected_with_its_offset() {
        let bytes = [0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff, 0x00];
        let kind = ScanErrorKind::Truncated { needed: 0xffff_ffff, remaining: 1 };
        assert_eq!(skip(&bytes, 8), Err(ScanError { offset: 2, kind }));
        let kind = ScanErrorKind::Truncated { needed: 2 * 0xffff_ffff, remaining: 0 };
        assert_eq!(skip(&[0xdf, 0xff, 0xff, 0xff, 0xff], 8), Err(ScanError { offset: 0, kind }));
    }

    #[test]
    fn the_depth_limit_counts_containers() {
        let mut bytes = vec![0x91; 4];
        bytes.push(0x00);
        assert_eq!(skip(&bytes, 4), Ok(5));
        assert_eq!(skip(&bytes, 3), Err(ScanError { offset: 3, kind: ScanErrorKind::TooDeep }));
        assert_eq!(
            skip(&[0x91; 1_000_000], 128),
            Err(ScanError { offset: 128, kind: ScanErrorKind::TooDeep })
        );
    }
}
