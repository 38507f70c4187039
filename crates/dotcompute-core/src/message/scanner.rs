//! Walks over MessagePack without building anything, so that hostile bytes are refused before any value is made of them.

use rmp::Marker;

/// A walk over MessagePack bytes. Every length is compared with the bytes that are left before it is believed, and the
/// walk keeps its own stack, so that neither a length nor a depth in the bytes can cost memory or overflow anything.
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The head of a value: all of it, unless it is a container.
pub enum Head<'a> {
    /// A string's bytes, not yet known to be UTF-8.
    Str(&'a [u8]),
    /// An array; this many values follow.
    Array(u32),
    /// A map; this many pairs of values follow.
    Map(u32),
    /// Anything else.
    Other,
}

/// Why bytes are not MessagePack, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The offset of the value at fault.
    pub offset: usize,
    pub kind: FaultKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// At least this many bytes had to follow, but only so many do.
    Truncated { needed: u64, left: usize },
    /// The one byte that no MessagePack value starts with, 0xc1.
    Reserved,
    /// Containers within containers, beyond the limit.
    TooDeep,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The offset of the next value.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Reads a value's head. The values in a container are read by the next calls.
    pub fn head(&mut self) -> Result<Head<'a>, Fault> {
        let start = self.at;
        let marker = Marker::from_u8(self.number(start, 1)? as u8);
        Ok(match marker {
            Marker::Null | Marker::False | Marker::True | Marker::FixPos(_) | Marker::FixNeg(_) => {
                Head::Other
            }
            Marker::U8 | Marker::I8 => self.other(start, 1)?,
            Marker::U16 | Marker::I16 | Marker::FixExt1 => self.other(start, 2)?,
            Marker::FixExt2 => self.other(start, 3)?,
            Marker::U32 | Marker::I32 | Marker::F32 => self.other(start, 4)?,
            Marker::FixExt4 => self.other(start, 5)?,
            Marker::U64 | Marker::I64 | Marker::F64 => self.other(start, 8)?,
            Marker::FixExt8 => self.other(start, 9)?,
            Marker::FixExt16 => self.other(start, 17)?,
            Marker::Bin8 => self.prefixed(start, 1, 0)?,
            Marker::Bin16 => self.prefixed(start, 2, 0)?,
            Marker::Bin32 => self.prefixed(start, 4, 0)?,
            // An extension's type byte comes after its length and is not counted in it.
            Marker::Ext8 => self.prefixed(start, 1, 1)?,
            Marker::Ext16 => self.prefixed(start, 2, 1)?,
            Marker::Ext32 => self.prefixed(start, 4, 1)?,
            Marker::FixStr(len) => Head::Str(self.take(start, len.into())?),
            Marker::Str8 => self.string(start, 1)?,
            Marker::Str16 => self.string(start, 2)?,
            Marker::Str32 => self.string(start, 4)?,
            Marker::FixArray(len) => self.container(start, len.into(), 1).map(Head::Array)?,
            Marker::Array16 => self.long_container(start, 2, 1).map(Head::Array)?,
            Marker::Array32 => self.long_container(start, 4, 1).map(Head::Array)?,
            Marker::FixMap(len) => self.container(start, len.into(), 2).map(Head::Map)?,
            Marker::Map16 => self.long_container(start, 2, 2).map(Head::Map)?,
            Marker::Map32 => self.long_container(start, 4, 2).map(Head::Map)?,
            Marker::Reserved => return Err(Fault { offset: start, kind: FaultKind::Reserved }),
        })
    }

    /// Passes over one whole value and returns its bytes. Containers may lie `max_depth` deep in it.
    pub fn skip(&mut self, max_depth: usize) -> Result<&'a [u8], Fault> {
        let start = self.at;
        // For each open container, outermost first, how many values are still to come.
        let mut open: Vec<u64> = Vec::new();
        loop {
            let offset = self.at;
            let inside = match self.head()? {
                Head::Array(len) => Some(u64::from(len)),
                Head::Map(len) => Some(2 * u64::from(len)),
                Head::Str(_) | Head::Other => None,
            };
            if let Some(count) = inside {
                if open.len() == max_depth {
                    return Err(Fault { offset, kind: FaultKind::TooDeep });
                }
                if count > 0 {
                    open.push(count);
                    continue;
                }
            }
            // A value has ended, and with it every container of which it was the last.
            loop {
                let Some(to_come) = open.last_mut() else { return Ok(&self.bytes[start..self.at]) };
                *to_come -= 1;
                if *to_come > 0 {
                    break;
                }
                open.pop();
            }
        }
    }

    /// The next `len` bytes, of the value that starts at `start`.
    fn take(&mut self, start: usize, len: u64) -> Result<&'a [u8], Fault> {
        let left = self.left();
        match usize::try_from(len).ok().filter(|&len| len <= left) {
            Some(len) => {
                let taken = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(taken)
            }
            None => Err(Fault { offset: start, kind: FaultKind::Truncated { needed: len, left } }),
        }
    }

    /// The next `width` bytes as a big-endian number.
    fn number(&mut self, start: usize, width: u64) -> Result<u32, Fault> {
        Ok(self.take(start, width)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn other(&mut self, start: usize, len: u64) -> Result<Head<'a>, Fault> {
        self.take(start, len)?;
        Ok(Head::Other)
    }

    fn prefixed(&mut self, start: usize, width: u64, uncounted: u64) -> Result<Head<'a>, Fault> {
        let len = u64::from(self.number(start, width)?) + uncounted;
        self.other(start, len)
    }

    fn string(&mut self, start: usize, width: u64) -> Result<Head<'a>, Fault> {
        let len = self.number(start, width)?;
        Ok(Head::Str(self.take(start, len.into())?))
    }

    fn long_container(&mut self, start: usize, width: u64, values_each: u64) -> Result<u32, Fault> {
        let len = self.number(start, width)?;
        self.container(start, len, values_each)
    }

    /// Believes a container's length only if that many values could follow: the shortest is one byte.
    fn container(&self, start: usize, len: u32, values_each: u64) -> Result<u32, Fault> {
        let needed = u64::from(len) * values_each;
        if needed > self.left() as u64 {
            return Err(Fault { offset: start, kind: FaultKind::Truncated { needed, left: self.left() } });
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8], max_depth: usize) -> Result<usize, Fault> {
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
                    matches!(skip(&value[..cut], 8), Err(Fault { kind: FaultKind::Truncated { .. }, .. })),
                    "{value:02x?} cut to {cut} bytes"
                );
            }
            let mut longer = value.to_vec();
            longer.push(0xc1);
            assert_eq!(skip(&longer, 8), Ok(value.len()), "what follows is not looked at");
        }
    }

    #[test]
    fn a_hostile_length_is_refused_where_it_stands() {
        let bytes = [0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff, 0x00];
        let kind = FaultKind::Truncated { needed: 0xffff_ffff, left: 1 };
        assert_eq!(skip(&bytes, 8), Err(Fault { offset: 2, kind }));
        let kind = FaultKind::Truncated { needed: 2 * 0xffff_ffff, left: 0 };
        assert_eq!(skip(&[0xdf, 0xff, 0xff, 0xff, 0xff], 8), Err(Fault { offset: 0, kind }));
    }

    #[test]
    fn the_depth_limit_counts_containers() {
        let mut bytes = vec![0x91; 4];
        bytes.push(0x00);
        assert_eq!(skip(&bytes, 4), Ok(5));
        assert_eq!(skip(&bytes, 3), Err(Fault { offset: 3, kind: FaultKind::TooDeep }));
        assert_eq!(skip(&[0x91; 1_000_000], 128), Err(Fault { offset: 128, kind: FaultKind::TooDeep }));
    }
}
