//! Python values to MessagePack.
//!
//! The format is that of pydotcompute 0.2: UUIDs are `{"__uuid_bin__": bytes}`, and arrays are `{"__ndarray__", "dtype", "shape"}`. Values of
//! other types than MessagePack's follow in [`tagged`].

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType,
};
use pyo3::{IntoPyObjectExt, intern};
use rmp::Marker;
use rmp::encode as mp;

use super::codec::{MessageCodec, codec_of, codec_of_message};
use super::errors::{in_field, wrapped};
use super::plain::{Place, PlainTypes};
use super::reader::Reader;
use super::writer::{self, KIND, bytes, check_depth, length, string, uuid, written};
use super::{id, python};

/// Levels of nesting of the fields of a nested message: the tag, the list of name and fields, and the map of the fields.
const MESSAGE_LEVELS: usize = 3;

/// Keys of maps that are not dictionaries.
const RESERVED_KEYS: [&str; 4] = [KIND, "__uuid_bin__", "__uuid__", "__ndarray__"];

/// Appends any value.
///
/// # Errors
///
/// `TypeError` for an object that would not come back as it is, `OverflowError` for integers of more than 64 bits, `ValueError` for values
/// nested too deep or too long.
pub(super) fn value(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    if object.is_none() {
        return written(mp::write_nil(out));
    }
    if let Ok(number) = object.cast_exact::<PyFloat>() {
        return written(mp::write_f64(out, number.value()));
    }
    if let Ok(text) = object.cast_exact::<PyString>() {
        return string(out, text.to_str()?);
    }
    if let Ok(number) = object.cast_exact::<PyInt>() {
        return integer(out, number);
    }
    if let Ok(truth) = object.cast_exact::<PyBool>() {
        return written(mp::write_bool(out, truth.is_true()));
    }
    if let Ok(raw) = object.cast_exact::<PyBytes>() {
        return bytes(out, raw.as_bytes());
    }
    container(out, object, place)
}

fn integer(out: &mut Vec<u8>, number: &Bound<'_, PyInt>) -> PyResult<()> {
    if let Ok(signed) = number.extract::<i64>() {
        return written(mp::write_sint(out, signed));
    }
    match number.extract::<u64>() {
        Ok(unsigned) => written(mp::write_uint(out, unsigned)),
        Err(_) => Err(PyOverflowError::new_err(format!(
            "the integer {number} needs more than 64 bits; send it as a string"
        ))),
    }
}

fn container(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    check_depth(place.depth)?;
    if let Ok(list) = object.cast_exact::<PyList>() {
        return sequence(out, list.len(), list.iter(), place);
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        return map(out, dict, place);
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        if !place.declared.has_list() {
            writer::start_tagged(out, "tuple")?;
        }
        return sequence(out, tuple.len(), tuple.iter(), place);
    }
    for (class, kind) in
        [(object.py().get_type::<PySet>(), "set"), (object.py().get_type::<PyFrozenSet>(), "frozenset")]
    {
        if object.get_type().is(&class) {
            // A copy: writing an item may run Python code that changes the set.
            let items = object.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            writer::start_tagged(out, kind)?;
            return sequence(out, items.len(), items.into_iter(), place);
        }
    }
    other(out, object, place)
}

fn sequence<'py>(
    out: &mut Vec<u8>,
    len: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    place: Place,
) -> PyResult<()> {
    written(mp::write_array_len(out, length(len)?))?;
    let mut count = 0;
    for item in items {
        value(out, &item, place.inside(1))?;
        count += 1;
    }
    if count == len { Ok(()) } else { Err(PyValueError::new_err("a list was changed while it was written")) }
}

fn map(out: &mut Vec<u8>, dict: &Bound<'_, PyDict>, place: Place) -> PyResult<()> {
    // Iterate over a copy: encoding an item may run Python code that changes the dictionary.
    let items = dict.items();
    let start = out.len();
    written(mp::write_map_len(out, length(items.len())?))?;
    let header = start..out.len();
    let mut has_plain_keys = true;
    for item in items.iter() {
        let pair = item.cast_exact::<PyTuple>()?;
        has_plain_keys &= map_key(out, &pair.get_item(0)?, place.inside(1))?;
        value(out, &pair.get_item(1)?, place.inside(1))?;
    }
    if has_plain_keys { Ok(()) } else { writer::map_to_pairs(out, header, items.len()) }
}

/// Appends a key. Returns whether it may be the key of a MessagePack map.
fn map_key(out: &mut Vec<u8>, key: &Bound<'_, PyAny>, place: Place) -> PyResult<bool> {
    let is_plain_text = |text: &str| !text.starts_with("__") || !RESERVED_KEYS.contains(&text);
    if let Ok(text) = key.cast_exact::<PyString>() {
        let text = text.to_str()?;
        return string(out, text).map(|()| is_plain_text(text));
    }
    let start = out.len();
    value(out, key, place)?;
    let mut written = Reader::new(&out[start..]);
    Ok(match written.peek() {
        Some(
            Marker::FixPos(_)
            | Marker::FixNeg(_)
            | Marker::U8
            | Marker::U16
            | Marker::U32
            | Marker::U64
            | Marker::I8
            | Marker::I16
            | Marker::I32
            | Marker::I64
            | Marker::Bin8
            | Marker::Bin16
            | Marker::Bin32,
        ) => true,
        _ => written.string()?.is_some_and(is_plain_text),
    })
}

/// Appends an object that is neither a plain value nor a plain container.
fn other(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    static NDARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    let class = object.get_type();
    if class.is(python::uuid_class(py)?) {
        return uuid(out, &python::uuid_bytes(object)?);
    }
    if class.is(NDARRAY.import(py, "numpy", "ndarray")?) {
        return array(out, object, place);
    }
    if object.is_instance(python::numpy_scalar(py)?)? {
        let item = object.call_method0(intern!(py, "item"))?;
        if place.declared.has_type_of(&item) {
            return value(out, &item, place);
        }
    } else if let Some(codec) = codec_of_message(&class)? {
        return nested_message(out, codec.get(), object, place);
    }
    described(out, object, place)
}

/// Appends an array: any object with `tobytes`, `dtype` and `shape`.
pub(super) fn array(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    let py = object.py();
    let dtype = object.getattr(intern!(py, "dtype"))?;
    if dtype.getattr(intern!(py, "hasobject")).and_then(|has| has.is_truthy()).unwrap_or(false) {
        return Err(PyTypeError::new_err(format!(
            "an array of Python objects (dtype {dtype}) cannot be sent; use a numeric dtype"
        )));
    }
    written(mp::write_map_len(out, 3))?;
    string(out, "__ndarray__")?;
    value(out, &object.call_method0(intern!(py, "tobytes"))?, place.inside(1))?;
    string(out, "dtype")?;
    value(out, &dtype_name(&dtype)?, place.inside(1))?;
    string(out, "shape")?;
    let shape: Vec<i64> = object.getattr(intern!(py, "shape"))?.extract()?;
    value(out, &shape.into_bound_py_any(py)?, place.inside(1))
}

/// Returns the name of an element type, or its fields.
fn dtype_name<'py>(dtype: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = dtype.py();
    // 1 stands for NumPy's own types in the byte order of this machine. Arrays of other libraries may lack the attribute.
    let builtin = dtype.getattr(intern!(py, "isbuiltin")).and_then(|kind| kind.extract::<i64>()).unwrap_or(1);
    if builtin == 1 {
        return Ok(dtype.str()?.into_any());
    }
    DESCRIBE.import(py, "pydotcompute.ring_kernels._message_values", "describe_dtype")?.call1((dtype,))
}

/// Appends a message that is a value of a field.
fn nested_message(
    out: &mut Vec<u8>,
    codec: &MessageCodec,
    object: &Bound<'_, PyAny>,
    place: Place,
) -> PyResult<()> {
    writer::start_tagged(out, "message")?;
    written(mp::write_array_len(out, 2))?;
    string(out, codec.type_name())?;
    if codec.is_standard() {
        let inner = place.inside(MESSAGE_LEVELS);
        check_depth(inner.depth)?;
        return codec.encode_fields(object, out, inner.depth);
    }
    // The class has a `serialize` of its own.
    let serialized = object.call_method0(intern!(object.py(), "serialize"))?;
    bytes(out, serialized.extract()?)
}

/// Appends an object with a kind and a payload that the Python module finds.
fn described(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, place: Place) -> PyResult<()> {
    static DESCRIBE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    let describe = DESCRIBE.import(py, "pydotcompute.ring_kernels._message_values", "describe")?;
    let described = describe.call1((object, place.declared.bits()))?;
    let (kind, payload): (Bound<'_, PyString>, Bound<'_, PyAny>) = described.extract()?;
    match kind.to_str()? {
        "plain" => value(out, &payload, place.inside(1)),
        "array" => array(out, object, place),
        "packed" => {
            out.extend_from_slice(payload.extract()?);
            Ok(())
        }
        kind => {
            check_depth(place.depth)?;
            writer::start_tagged(out, kind)?;
            value(out, &payload, Place { declared: PlainTypes::NONE, ..place.inside(1) })
        }
    }
}

impl MessageCodec {
    fn encode(&self, message: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        self.encode_map(message, out, 0, 1)?;
        string(out, "__type__")?;
        string(out, self.type_name())
    }

    /// Appends a map of the fields, whose values are at `depth`.
    pub(super) fn encode_fields(
        &self,
        message: &Bound<'_, PyAny>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> PyResult<()> {
        self.encode_map(message, out, depth, 0)
    }

    /// Appends the fields and the header of a map that has `others` more entries.
    fn encode_map(
        &self,
        message: &Bound<'_, PyAny>,
        out: &mut Vec<u8>,
        depth: usize,
        others: usize,
    ) -> PyResult<()> {
        let py = message.py();
        written(mp::write_map_len(
            out,
            u32::try_from(self.fields.len() + others)
                .map_err(|_| PyTypeError::new_err("the message class has too many fields"))?,
        ))?;
        for field in &self.fields {
            string(out, &field.key)?;
            if self.lazy_id
                && *field.key == *"message_id"
                && let Some(id) = id::id_bytes(message)?
            {
                uuid(out, &id)?;
                continue;
            }
            let of_field = message.getattr(field.name.bind(py))?;
            value(out, &of_field, Place { depth, declared: field.declared })
                .map_err(|error| in_field(py, &field.key, error))?;
        }
        Ok(())
    }
}

/// Encodes a message.
///
/// Args:
///     message: The message.
///
/// Returns:
///     The bytes.
///
/// Raises:
///     MessageSerializationError: A value cannot be encoded; the error names the field.
#[pyfunction]
pub(super) fn encode_message<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    thread_local! {
        /// Buffer of the last message, reused for the next.
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    /// A larger buffer is freed.
    const MAX_SCRATCH: usize = 1 << 20;
    let class = message.get_type();
    let mut out = SCRATCH.take();
    out.clear();
    let encoded = codec_of(&class).and_then(|codec| codec.get().encode(message, &mut out));
    let bytes = encoded.map(|()| PyBytes::new(message.py(), &out));
    if out.capacity() <= MAX_SCRATCH {
        SCRATCH.replace(out);
    }
    bytes.map_err(|error| wrapped(&class, "MessageSerializationError", error))
}
