//! MessagePack to Python values.
//!
//! Also reads the format of pydotcompute 0.2, including ids as strings (`{"__uuid__": ...}`). Every length is checked against the remaining
//! bytes before memory is allocated, so a wrong length causes no large allocation.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyType};
use pyo3::{IntoPyObjectExt, intern};
use rmp::Marker;

use super::build::{DecodedFields, as_id};
use super::codec::{MessageCodec, codec_of};
use super::errors::{in_field, wrapped};
use super::objects;
use super::reader::{Reader, check_nested};

/// Levels of nesting of the fields of a nested message: the tag, the list of name and fields, and the map of the fields.
const MESSAGE_LEVELS: usize = 3;

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
        _ => objects::extension(py, reader, here),
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
        && let Some(kind) = reader.kind()?
    {
        return tagged(py, reader, kind, depth);
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
    if may_be_object { objects::object(entries) } else { Ok(entries.into_any()) }
}

/// Reads a payload and returns the value.
fn tagged<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    kind: &str,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    static RESTORE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    check_nested(reader, 1, depth)?;
    match kind {
        "tuple" => Ok(items(py, reader, depth)?.to_tuple().into_any()),
        "set" => Ok(PySet::new(py, items(py, reader, depth)?)?.into_any()),
        "frozenset" => Ok(PyFrozenSet::new(py, items(py, reader, depth)?)?.into_any()),
        "dict" => pairs(py, reader, depth),
        "message" => nested_message(py, reader, depth),
        _ => {
            let payload = value(py, reader, depth + 1)?;
            let restore = RESTORE.import(py, "pydotcompute.ring_kernels._message_values", "restore")?;
            restore.call1((kind, payload))
        }
    }
}

fn items<'py>(py: Python<'py>, reader: &mut Reader<'_>, depth: usize) -> PyResult<Bound<'py, PyList>> {
    let len = reader.array_len()?;
    list(py, reader, len, depth)
}

fn pairs<'py>(py: Python<'py>, reader: &mut Reader<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let here = *reader;
    let len = reader.array_len()?;
    check_nested(reader, len, depth)?;
    if len % 2 != 0 {
        return Err(here.error("a key without a value"));
    }
    let entries = PyDict::new(py);
    for _ in 0..len / 2 {
        let key = value(py, reader, depth + 1)?;
        entries.set_item(key, value(py, reader, depth + 1)?)?;
    }
    Ok(entries.into_any())
}

fn nested_message<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    static FIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let here = *reader;
    let name = match reader.array_len()? {
        2 => reader.string()?,
        _ => None,
    };
    let Some(name) = name else {
        return Err(here.error("a nested message does not start with the name of its class"));
    };
    let find = FIND.import(py, "pydotcompute.ring_kernels.message", "_find_message_class")?;
    let class = find.call1((name,))?.cast_into::<PyType>().map_err(PyErr::from)?;
    if matches!(reader.peek(), Some(Marker::Bin8 | Marker::Bin16 | Marker::Bin32)) {
        let bytes = value(py, reader, depth)?;
        return class.call_method1(intern!(py, "deserialize"), (bytes,));
    }
    let depth = depth + MESSAGE_LEVELS;
    check_nested(reader, 1, depth)?;
    codec_of(&class)?.get().decode_fields(py, reader, depth)
}

impl MessageCodec {
    fn decode<'py>(&self, py: Python<'py>, bytes: &[u8], exact: bool) -> PyResult<Bound<'py, PyAny>> {
        let mut reader = Reader::new(bytes);
        let message = self.decode_map(py, &mut reader, 0, exact)?;
        if reader.is_empty() { Ok(message) } else { Err(reader.error("unexpected bytes after the value")) }
    }

    /// Reads a map of the fields, whose values are at `depth`.
    pub(super) fn decode_fields<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.decode_map(py, reader, depth, false)
    }

    /// Reads a map of the fields and `__type__`. `exact`: whether it must have exactly the fields of this class.
    fn decode_map<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        depth: usize,
        exact: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut decoded = DecodedFields { values: Vec::with_capacity(self.fields.len()), id: None };
        decoded.values.resize_with(self.fields.len(), || None);
        let mut type_name = None;
        let mut unknown = 0;
        // Fields are encoded in order, so the key is nearly always that of the next field.
        let mut expected = 0;
        for _ in 0..reader.map_len()? {
            let Some(key) = reader.string()? else {
                return Err(reader.error("a field name is not a string"));
            };
            match self.position(key, expected) {
                Some(index) => {
                    expected = index + 1;
                    self.read_field(py, reader, index, depth, &mut decoded)?;
                }
                None if key == "__type__" => match reader.string()? {
                    Some(name) => type_name = Some(name),
                    None => reader.skip()?,
                },
                // A field that this class does not have.
                None => {
                    unknown += 1;
                    drop(value(py, reader, depth)?);
                }
            }
        }
        if let Some(name) = type_name {
            let missing = decoded.values.iter().filter(|value| value.is_none()).count();
            let has_same_fields = unknown == 0 && missing == usize::from(decoded.id.is_some());
            self.check_type(name, exact, has_same_fields)?;
        }
        self.build(py, decoded)
    }

    fn read_field<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        index: usize,
        depth: usize,
        decoded: &mut DecodedFields<'py>,
    ) -> PyResult<()> {
        let name = &self.fields[index].key;
        let is_id = **name == *"message_id";
        if is_id && self.lazy_id {
            decoded.id = reader.uuid();
            if decoded.id.is_some() {
                return Ok(());
            }
        }
        let mut value = value(py, reader, depth).map_err(|error| in_field(py, name, error))?;
        if is_id || **name == *"correlation_id" {
            value = as_id(value)?;
        }
        decoded.values[index] = Some(value);
        Ok(())
    }
}

/// Decodes a message.
///
/// Args:
///     class: The message class.
///     data: The bytes, or another object with the buffer protocol.
///     exact: Whether the bytes must have exactly the fields of the class. By default others are ignored, and missing ones get defaults.
///
/// Returns:
///     The message.
///
/// Raises:
///     MessageDeserializationError: The bytes are not a message, lack a field, or have a value that the class rejects.
#[pyfunction]
#[pyo3(signature = (class, data, exact = false))]
pub(super) fn decode_message<'py>(
    class: &Bound<'py, PyType>,
    data: &Bound<'py, PyAny>,
    exact: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let decoded = codec_of(class).and_then(|codec| {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return codec.get().decode(class.py(), bytes.as_bytes(), exact);
        }
        let copy = PyBuffer::<u8>::get(data)?.to_vec(class.py())?;
        codec.get().decode(class.py(), &copy, exact)
    });
    decoded.map_err(|error| wrapped(class, "MessageDeserializationError", error))
}

/// Reads the name of the class from the bytes of a message.
///
/// Args:
///     data: The bytes.
///
/// Returns:
///     The name, or None without ``__type__``.
///
/// Raises:
///     ValueError: The bytes are not a map of named fields.
#[pyfunction]
pub(super) fn message_type_name<'py>(data: &Bound<'py, PyBytes>) -> PyResult<Option<String>> {
    let mut reader = Reader::new(data.as_bytes());
    let mut name = None;
    for _ in 0..reader.map_len()? {
        let key = reader.string()?;
        if key == Some("__type__") {
            name = reader.string()?.map(str::to_owned);
        } else if key.is_none() {
            return Err(reader.error("a field name is not a string"));
        } else {
            reader.skip()?;
        }
    }
    Ok(name)
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
