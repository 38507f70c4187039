//! Values of other types than MessagePack's: the map `{"__py__": kind, "v": payload}`.
//!
//! Tuples, sets, dictionaries with other keys than MessagePack's and nested messages are written and read here. The Python module
//! `_message_values` has the payloads of all other kinds.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFrozenSet, PyList, PySet, PyString, PyType};
use rmp::Marker;
use rmp::encode as mp;

use super::codec::{self, MessageCodec};
use super::decode::{self, Reader};
use super::encode;
use super::plain::{Place, PlainTypes};

/// Key of the kind. A dictionary that contains it is itself written as a tagged value.
pub(super) const KIND: &str = "__py__";

/// The key in front of the kind, as it is written.
const KIND_KEY: &[u8] = b"\xa6__py__";
/// The key in front of the payload.
const PAYLOAD_KEY: &[u8] = b"\xa1v";

/// Levels of nesting of the fields of a nested message: the tag, the list of name and fields, and the map of the fields.
const MESSAGE_LEVELS: usize = 3;

/// Appends everything in front of the payload.
pub(super) fn start(out: &mut Vec<u8>, kind: &str) -> PyResult<()> {
    encode::written(mp::write_map_len(out, 2))?;
    out.extend_from_slice(KIND_KEY);
    encode::string(out, kind)?;
    out.extend_from_slice(PAYLOAD_KEY);
    Ok(())
}

/// Replaces the header of a map that was written at `at`, so that it becomes a tagged list of keys and values in turn.
pub(super) fn map_to_pairs(out: &mut Vec<u8>, at: std::ops::Range<usize>, len: usize) -> PyResult<()> {
    let mut header = Vec::with_capacity(24);
    start(&mut header, "dict")?;
    encode::written(mp::write_array_len(&mut header, encode::length(2 * len)?))?;
    out.splice(at, header);
    Ok(())
}

/// Appends a message that is a value of a field.
pub(super) fn message(
    out: &mut Vec<u8>,
    codec: &MessageCodec,
    object: &Bound<'_, PyAny>,
    place: Place,
) -> PyResult<()> {
    start(out, "message")?;
    encode::written(mp::write_array_len(out, 2))?;
    encode::string(out, codec.type_name())?;
    if codec.is_standard() {
        let inner = place.inside(MESSAGE_LEVELS);
        encode::check_depth(inner.depth)?;
        return codec.encode_fields(object, out, inner.depth);
    }
    // The class has a `serialize` of its own.
    let bytes = object.call_method0(intern!(object.py(), "serialize"))?;
    encode::bytes(out, bytes.extract()?)
}

/// Appends an object with a kind and a payload that the Python module finds.
pub(super) fn described(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    let describe = DESCRIBE.import(py, "pydotcompute.ring_kernels._message_values", "describe")?;
    let described = describe.call1((object, place.declared.bits()))?;
    let (kind, payload): (Bound<'_, PyString>, Bound<'_, PyAny>) = described.extract()?;
    match kind.to_str()? {
        "plain" => encode::value(out, &payload, place.inside(1)),
        "array" => encode::array(out, object, place),
        "packed" => {
            out.extend_from_slice(payload.extract()?);
            Ok(())
        }
        kind => {
            encode::check_depth(place.depth)?;
            start(out, kind)?;
            encode::value(out, &payload, Place { declared: PlainTypes::NONE, ..place.inside(1) })
        }
    }
}

/// Reads what is between the header of a map with two entries and a payload, and returns the kind. If the map is another, reads nothing
/// and returns `None`.
pub(super) fn kind<'a>(reader: &mut Reader<'a>) -> PyResult<Option<&'a str>> {
    let before = *reader;
    if reader.skip_prefix(KIND_KEY)
        && let Some(kind) = reader.string()?
        && reader.skip_prefix(PAYLOAD_KEY)
    {
        return Ok(Some(kind));
    }
    *reader = before;
    Ok(None)
}

/// Reads a payload and returns the value.
pub(super) fn value<'py>(
    py: Python<'py>,
    reader: &mut Reader<'_>,
    kind: &str,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    static RESTORE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    decode::check_nested(reader, 1, depth)?;
    match kind {
        "tuple" => Ok(items(py, reader, depth)?.to_tuple().into_any()),
        "set" => Ok(PySet::new(py, items(py, reader, depth)?)?.into_any()),
        "frozenset" => Ok(PyFrozenSet::new(py, items(py, reader, depth)?)?.into_any()),
        "dict" => pairs(py, reader, depth),
        "message" => nested_message(py, reader, depth),
        _ => {
            let payload = decode::value(py, reader, depth + 1)?;
            let restore = RESTORE.import(py, "pydotcompute.ring_kernels._message_values", "restore")?;
            restore.call1((kind, payload))
        }
    }
}

fn items<'py>(py: Python<'py>, reader: &mut Reader<'_>, depth: usize) -> PyResult<Bound<'py, PyList>> {
    let len = reader.array_len()?;
    decode::list(py, reader, len, depth)
}

fn pairs<'py>(py: Python<'py>, reader: &mut Reader<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let here = *reader;
    let len = reader.array_len()?;
    decode::check_nested(reader, len, depth)?;
    if len % 2 != 0 {
        return Err(here.error("a key without a value"));
    }
    let entries = PyDict::new(py);
    for _ in 0..len / 2 {
        let key = decode::value(py, reader, depth + 1)?;
        entries.set_item(key, decode::value(py, reader, depth + 1)?)?;
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
        let bytes = decode::value(py, reader, depth)?;
        return class.call_method1(intern!(py, "deserialize"), (bytes,));
    }
    let depth = depth + MESSAGE_LEVELS;
    decode::check_nested(reader, 1, depth)?;
    codec::codec_of(&class)?.get().decode_fields(py, reader, depth)
}

/// Returns what NumPy takes as the element type of an array: the name in the bytes, or the type with the fields in the bytes.
pub(super) fn dtype<'py>(described: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DTYPE_OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if described.is_exact_instance_of::<PyString>() {
        return Ok(described);
    }
    if !described.is_exact_instance_of::<PyList>() {
        return Err(PyValueError::new_err("the dtype of an array is neither a name nor a list of fields"));
    }
    let dtype_of =
        DTYPE_OF.import(described.py(), "pydotcompute.ring_kernels._message_values", "dtype_of")?;
    dtype_of.call1((described,))
}
