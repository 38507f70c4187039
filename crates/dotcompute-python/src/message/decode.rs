//! MessagePack to Python values.
//!
//! Also reads the format of pydotcompute 0.2, including ids as strings (`{"__uuid__": ...}`). Every length is checked against the remaining
//! bytes before memory is allocated, so a wrong length causes no large allocation.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use rmp::Marker;

use super::{python, tagged};

/// Maximum nesting depth.
const MAX_DEPTH: usize = 511;

/// The bytes not read yet, and the total length.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
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

    fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("`take` returns `N` bytes"))
    }

    fn marker(&mut self) -> PyResult<Marker> {
        Ok(Marker::from_u8(self.array::<1>()?[0]))
    }

    /// A big-endian length of `N` bytes.
    fn length<const N: usize>(&mut self) -> PyResult<usize> {
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
    fn is_at_underscores(&self) -> bool {
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
}

/// Reads one value.
///
/// # Errors
///
/// `ValueError` for bytes that are not MessagePack, are cut short, or are nested too deep.
pub(super) fn value<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let here = *reader;
    if let Some(string) = peek_string(reader)? {
        return Ok(PyString::new(py, string).into_any());
    }
    match reader.marker()? {
        Marker::Null => Ok(py.None().into_bound(py)),
        Marker::True => Ok(PyBool::new(py, true).to_owned().into_any()),
        Marker::False => Ok(PyBool::new(py, false).to_owned().into_any()),
        Marker::FixPos(number) => number.into_bound_py_any(py),
        Marker::FixNeg(number) => number.into_bound_py_any(py),
        Marker::U8 => u8::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::U16 => u16::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::U32 => u32::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::U64 => u64::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::I8 => i8::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::I16 => i16::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::I32 => i32::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::I64 => i64::from_be_bytes(reader.array()?).into_bound_py_any(py),
        Marker::F32 => f64::from(f32::from_be_bytes(reader.array()?)).into_bound_py_any(py),
        Marker::F64 => Ok(PyFloat::new(py, f64::from_be_bytes(reader.array()?)).into_any()),
        Marker::Bin8 => binary::<1>(py, reader),
        Marker::Bin16 => binary::<2>(py, reader),
        Marker::Bin32 => binary::<4>(py, reader),
        Marker::FixArray(len) => list(py, reader, usize::from(len), depth).map(Bound::into_any),
        Marker::Array16 => {
            let len = reader.length::<2>()?;
            list(py, reader, len, depth).map(Bound::into_any)
        }
        Marker::Array32 => {
            let len = reader.length::<4>()?;
            list(py, reader, len, depth).map(Bound::into_any)
        }
        Marker::FixMap(len) => map(py, reader, usize::from(len), depth),
        Marker::Map16 => reader.length::<2>().and_then(|len| map(py, reader, len, depth)),
        Marker::Map32 => reader.length::<4>().and_then(|len| map(py, reader, len, depth)),
        Marker::Reserved => Err(here.error("0xc1 is not a MessagePack marker")),
        _ => extension(py, reader, here),
    }
}

fn peek_string<'a>(reader: &mut Reader<'a>) -> PyResult<Option<&'a str>> {
    match reader.rest.first() {
        Some(0xa0..=0xbf | 0xd9..=0xdb) => reader.string(),
        _ => Ok(None),
    }
}

fn binary<'py, const N: usize>(py: Python<'py>, reader: &mut Reader<'_>) -> PyResult<Bound<'py, PyAny>> {
    let len = reader.length::<N>()?;
    Ok(PyBytes::new(py, reader.take(len)?).into_any())
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

/// Reads the items of a list.
pub(super) fn list<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    len: usize,
    depth: usize,
) -> PyResult<Bound<'py, PyList>> {
    check_nested(reader, len, depth)?;
    let items = PyList::empty(py);
    for _ in 0..len {
        items.append(value(py, reader, depth + 1)?)?;
    }
    Ok(items)
}

fn map<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    len: usize,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    check_nested(reader, len, depth)?;
    if len == 2
        && let Some(kind) = tagged::kind(reader)?
    {
        return tagged::value(py, reader, kind, depth);
    }
    let entries = PyDict::new(py);
    let mut may_be_object = false;
    for _ in 0..len {
        let here = *reader;
        may_be_object |= here.is_at_underscores();
        let key = value(py, reader, depth + 1)?;
        if !key.is_exact_instance_of::<PyString>()
            && !key.is_exact_instance_of::<PyBytes>()
            && !key.is_exact_instance_of::<PyInt>()
        {
            return Err(here.error("a key is not a string, bytes or an integer"));
        }
        entries.set_item(key, value(py, reader, depth + 1)?)?;
    }
    if may_be_object { object(entries) } else { Ok(entries.into_any()) }
}

/// Converts a map to the value that it encodes: an id, an array, or the map itself.
fn object(entries: Bound<'_, PyDict>) -> PyResult<Bound<'_, PyAny>> {
    let py = entries.py();
    if let Some(id) = entries.get_item(intern!(py, "__uuid_bin__"))? {
        let bytes: [u8; 16] = id
            .extract::<&[u8]>()?
            .try_into()
            .map_err(|_| PyValueError::new_err("an id does not have 16 bytes"))?;
        return python::uuid_from_bytes(py, &bytes);
    }
    if let Some(id) = entries.get_item(intern!(py, "__uuid__"))? {
        return python::uuid_class(py)?.call1((id,));
    }
    match entries.get_item(intern!(py, "__ndarray__"))? {
        Some(data) => array(&entries, &data),
        None => Ok(entries.into_any()),
    }
}

/// Decodes an array. The array owns its data and is writable.
fn array<'py>(entries: &Bound<'py, PyDict>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = entries.py();
    let entry = |name: &Bound<'py, PyString>| {
        entries.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("an array has no {name}")))
    };
    let (dtype, shape) = (tagged::dtype(entry(intern!(py, "dtype"))?)?, entry(intern!(py, "shape"))?);
    let shape = PyTuple::new(py, shape.extract::<Vec<i64>>()?)?;
    let flat = FROM_BUFFER.import(py, "numpy", "frombuffer")?.call1((data, dtype))?;
    flat.call_method1(intern!(py, "reshape"), (shape,))?.call_method0(intern!(py, "copy"))
}

/// Decodes an extension type with the package `msgpack`.
fn extension<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    start: Reader<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    static UNPACK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    *reader = Reader { rest: reader.rest, total: start.total };
    let marker = start.rest[0];
    let len = match marker {
        0xc7 => reader.length::<1>()?,
        0xc8 => reader.length::<2>()?,
        0xc9 => reader.length::<4>()?,
        // Fixed lengths of 1, 2, 4, 8 and 16 bytes.
        fixed => 1 << (fixed - 0xd4),
    };
    reader.take(len + 1)?;
    let whole = &start.rest[..start.rest.len() - reader.rest.len()];
    UNPACK
        .import(py, "pydotcompute.ring_kernels._msgpack_fallback", "unpack")?
        .call1((PyBytes::new(py, whole),))
}

/// Decodes one MessagePack value. Maps that encode ids and arrays become UUIDs and arrays.
///
/// Args:
///     data: The bytes.
///
/// Returns:
///     The value.
///
/// Raises:
///     ValueError: The bytes are not exactly one value.
#[pyfunction]
pub(super) fn unpack<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader::new(data);
    let unpacked = value(py, &mut reader, 0)?;
    if reader.is_empty() { Ok(unpacked) } else { Err(reader.error("unexpected bytes after the value")) }
}
