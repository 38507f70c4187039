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

use super::decode::Reader;
use super::plain::Place;
use super::{codec, python, tagged};

/// Maximum nesting depth, as in the package `msgpack`. It also stops a list that contains itself.
const MAX_DEPTH: usize = 511;

/// Keys of maps that are not dictionaries.
const RESERVED_KEYS: [&str; 4] = [tagged::KIND, "__uuid_bin__", "__uuid__", "__ndarray__"];

/// Converts a length. MessagePack lengths have at most 32 bits.
pub(super) fn length(len: usize) -> PyResult<u32> {
    u32::try_from(len).map_err(|_| {
        PyValueError::new_err(format!("{len} items or bytes exceed the MessagePack limit of 32 bits"))
    })
}

/// Converts the result of an `rmp` function. Writing to a `Vec` does not fail.
pub(super) fn written<T, E>(result: Result<T, E>) -> PyResult<()> {
    result.map(drop).map_err(|_| PyValueError::new_err("out of memory"))
}

/// Appends a string.
pub(super) fn string(out: &mut Vec<u8>, string: &str) -> PyResult<()> {
    length(string.len())?;
    written(mp::write_str(out, string))
}

/// Appends bytes.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) -> PyResult<()> {
    length(bytes.len())?;
    written(mp::write_bin(out, bytes))
}

/// Appends an id in the form of version 0.2.
pub(super) fn uuid(out: &mut Vec<u8>, id: &[u8; 16]) -> PyResult<()> {
    written(mp::write_map_len(out, 1))?;
    string(out, "__uuid_bin__")?;
    bytes(out, id)
}

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

/// Checks that a list or map may be written at a depth.
pub(super) fn check_depth(depth: usize) -> PyResult<()> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "values are nested more than {MAX_DEPTH} deep, or contain themselves; send flatter values"
    )))
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
            tagged::start(out, "tuple")?;
        }
        return sequence(out, tuple.len(), tuple.iter(), place);
    }
    for (class, kind) in
        [(object.py().get_type::<PySet>(), "set"), (object.py().get_type::<PyFrozenSet>(), "frozenset")]
    {
        if object.get_type().is(&class) {
            // A copy: writing an item may run Python code that changes the set.
            let items = object.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            tagged::start(out, kind)?;
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
    if has_plain_keys { Ok(()) } else { tagged::map_to_pairs(out, header, items.len()) }
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
    } else if let Some(codec) = codec::codec_of_message(&class)? {
        return tagged::message(out, codec.get(), object, place);
    }
    tagged::described(out, object, place)
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
