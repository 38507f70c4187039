//! Reads the parts of MessagePack that every value is made of.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rmp::Marker;

use super::writer::{KIND_KEY, PAYLOAD_KEY};

/// Maximum nesting depth.
const MAX_DEPTH: usize = 511;

/// The bytes not read yet, and the total length.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    pub(super) total: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, total: bytes.len() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn offset(&self) -> usize {
        self.total - self.rest.len()
    }

    /// Creates an error with the current offset.
    pub(super) fn error(&self, problem: impl std::fmt::Display) -> PyErr {
        PyValueError::new_err(format!("{problem} at byte {} of {}", self.offset(), self.total))
    }

    pub(super) fn take(&mut self, count: usize) -> PyResult<&'a [u8]> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(format_args!("{count} bytes expected, {} remain", self.rest.len()))),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("`take` returns `N` bytes"))
    }

    pub(super) fn marker(&mut self) -> PyResult<Marker> {
        Ok(Marker::from_u8(self.array::<1>()?[0]))
    }

    /// A big-endian length of `N` bytes.
    pub(super) fn length<const N: usize>(&mut self) -> PyResult<usize> {
        Ok(self.array::<N>()?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    /// The first byte, without reading it.
    pub(super) fn peek(&self) -> Option<Marker> {
        self.rest.first().map(|byte| Marker::from_u8(*byte))
    }

    /// Reads `prefix` and returns whether it was there. Otherwise reads nothing.
    pub(super) fn skip_prefix(&mut self, prefix: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Whether the next value may be a string that starts with two underscores: after a marker, and a length of up to four bytes.
    pub(super) fn is_at_underscores(&self) -> bool {
        [1, 2, 3, 5].iter().any(|start| self.rest.get(*start..).is_some_and(|text| text.starts_with(b"__")))
    }

    /// Reads the header of a list and returns its number of items.
    pub(super) fn array_len(&mut self) -> PyResult<usize> {
        let here = *self;
        match self.marker()? {
            Marker::FixArray(len) => Ok(usize::from(len)),
            Marker::Array16 => self.length::<2>(),
            Marker::Array32 => self.length::<4>(),
            other => Err(here.error(format_args!("expected a list, got {other:?}"))),
        }
    }

    /// Reads one value, without creating it.
    pub(super) fn skip(&mut self) -> PyResult<()> {
        let mut values: usize = 1;
        while values > 0 {
            values -= 1;
            let here = *self;
            let bytes = match self.marker()? {
                Marker::FixStr(len) => usize::from(len),
                Marker::Str8 | Marker::Bin8 => self.length::<1>()?,
                Marker::Str16 | Marker::Bin16 => self.length::<2>()?,
                Marker::Str32 | Marker::Bin32 => self.length::<4>()?,
                Marker::U8 | Marker::I8 => 1,
                Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
                Marker::FixExt2 => 3,
                Marker::U32 | Marker::I32 | Marker::F32 => 4,
                Marker::FixExt4 => 5,
                Marker::U64 | Marker::I64 | Marker::F64 => 8,
                Marker::FixExt8 => 9,
                Marker::FixExt16 => 17,
                Marker::Ext8 => self.length::<1>()? + 1,
                Marker::Ext16 => self.length::<2>()? + 1,
                Marker::Ext32 => self.length::<4>()? + 1,
                Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                    *self = here;
                    values = values.saturating_add(self.array_len()?);
                    0
                }
                Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                    *self = here;
                    values = values.saturating_add(self.map_len()?.saturating_mul(2));
                    0
                }
                _ => 0,
            };
            self.take(bytes)?;
        }
        Ok(())
    }

    /// Reads the header of a map and returns its number of entries.
    pub(super) fn map_len(&mut self) -> PyResult<usize> {
        let here = *self;
        match self.marker()? {
            Marker::FixMap(len) => Ok(usize::from(len)),
            Marker::Map16 => self.length::<2>(),
            Marker::Map32 => self.length::<4>(),
            other => Err(here.error(format_args!("expected a map, got {other:?}"))),
        }
    }

    /// Reads a string. If the next value is not a string, reads nothing and returns `None`.
    pub(super) fn string(&mut self) -> PyResult<Option<&'a str>> {
        let here = *self;
        let len = match self.marker()? {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => self.length::<1>()?,
            Marker::Str16 => self.length::<2>()?,
            Marker::Str32 => self.length::<4>()?,
            _ => {
                *self = here;
                return Ok(None);
            }
        };
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| here.error("a string is not UTF-8"))
    }

    /// Reads an id in the form of messages. If the next value is not one, reads nothing and returns `None`.
    pub(super) fn uuid(&mut self) -> Option<[u8; 16]> {
        // A map with one entry: a string of 12 bytes, then 16 bytes.
        const HEADER: &[u8] = b"\x81\xac__uuid_bin__\xc4\x10";
        let id = self.rest.strip_prefix(HEADER)?.first_chunk::<16>()?;
        self.rest = &self.rest[HEADER.len() + 16..];
        Some(*id)
    }

    /// Reads what is between the header of a map with two entries and a payload, and returns the kind. If the map is another, reads nothing
    /// and returns `None`.
    pub(super) fn kind(&mut self) -> PyResult<Option<&'a str>> {
        let before = *self;
        if self.skip_prefix(KIND_KEY)
            && let Some(kind) = self.string()?
            && self.skip_prefix(PAYLOAD_KEY)
        {
            return Ok(Some(kind));
        }
        *self = before;
        Ok(None)
    }
}

/// Checks a list or map of `len` items, of which at least one byte each must follow.
pub(super) fn check_nested(reader: &Reader<'_>, len: usize, depth: usize) -> PyResult<()> {
    if depth >= MAX_DEPTH {
        return Err(reader.error(format_args!("values are nested more than {MAX_DEPTH} deep")));
    }
    // Each item takes at least one byte.
    if len > reader.rest.len() {
        return Err(reader.error(format_args!("{len} items expected, which exceed the remaining bytes")));
    }
    Ok(())
}
