//! Python values to MessagePack.
//!
//! What pydotcompute 0.2 wrote, this writes: UUIDs as `{"__uuid_bin__": bytes}`, arrays as `{"__ndarray__", "dtype", "shape"}`, NumPy's
//! scalars as numbers. Types that are rare (extension types, subclasses) are left to the package `msgpack`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use rmp::encode as mp;

use super::python;

/// How deep values may be nested, as in the package `msgpack`: a list that contains itself ends here.
const DEPTH: usize = 511;

/// The longest thing that MessagePack can count.
fn length(len: usize) -> PyResult<u32> {
    u32::try_from(len).map_err(|_| {
        PyValueError::new_err(format!("{len} items or bytes are more than MessagePack can hold"))
    })
}

/// `rmp` writes into a `Vec`, which cannot fail.
pub(super) fn written<T, E>(result: Result<T, E>) -> PyResult<()> {
    result.map(drop).map_err(|_| PyValueError::new_err("out of memory"))
}

/// Appends a text.
pub(super) fn text(out: &mut Vec<u8>, text: &str) -> PyResult<()> {
    length(text.len())?;
    written(mp::write_str(out, text))
}

/// Appends bytes.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) -> PyResult<()> {
    length(bytes.len())?;
    written(mp::write_bin(out, bytes))
}

/// Appends an id in the form that 0.2 gave it.
pub(super) fn uuid(out: &mut Vec<u8>, id: &[u8; 16]) -> PyResult<()> {
    written(mp::write_map_len(out, 1))?;
    text(out, "__uuid_bin__")?;
    bytes(out, id)
}

/// Appends any value.
///
/// # Errors
///
/// `TypeError` for what has no form in MessagePack, `OverflowError` for integers of more than 64 bits, `ValueError` for what is nested
/// too deep or is too long.
pub(super) fn value(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    if object.is_none() {
        return written(mp::write_nil(out));
    }
    if let Ok(number) = object.cast_exact::<PyFloat>() {
        return written(mp::write_f64(out, number.value()));
    }
    if let Ok(string) = object.cast_exact::<PyString>() {
        return text(out, string.to_str()?);
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
    container(out, object, depth)
}

fn integer(out: &mut Vec<u8>, number: &Bound<'_, PyInt>) -> PyResult<()> {
    if let Ok(signed) = number.extract::<i64>() {
        return written(mp::write_sint(out, signed));
    }
    match number.extract::<u64>() {
        Ok(unsigned) => written(mp::write_uint(out, unsigned)),
        Err(_) => Err(PyOverflowError::new_err(format!("{number} needs more than 64 bits"))),
    }
}

fn container(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    if depth >= DEPTH {
        return Err(PyValueError::new_err(format!(
            "values are nested more than {DEPTH} deep, or contain themselves"
        )));
    }
    // Subclasses too, such as named tuples and dictionaries with an order or a default.
    if let Ok(list) = object.cast::<PyList>() {
        return sequence(out, list.len(), list.iter(), depth);
    }
    if let Ok(tuple) = object.cast::<PyTuple>()
        && (object.is_exact_instance_of::<PyTuple>() || !object.is_instance(extension(object.py())?)?)
    {
        return sequence(out, tuple.len(), tuple.iter(), depth);
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        // A copy: an item that has code of its own may change the dictionary while it is written.
        let items = dict.items();
        written(mp::write_map_len(out, length(items.len())?))?;
        return items.iter().try_for_each(|item| {
            let (key, item): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            value(out, &key, depth + 1)?;
            value(out, &item, depth + 1)
        });
    }
    other(out, object, depth)
}

/// `msgpack.ExtType`: a tuple to Python, and no list to MessagePack.
fn extension(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "msgpack", "ExtType")
}

fn sequence<'py>(
    out: &mut Vec<u8>,
    len: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    depth: usize,
) -> PyResult<()> {
    written(mp::write_array_len(out, length(len)?))?;
    let mut count = 0;
    for item in items {
        value(out, &item, depth + 1)?;
        count += 1;
    }
    if count == len { Ok(()) } else { Err(PyValueError::new_err("a list was changed while it was written")) }
}

/// What is neither a plain value nor a plain container.
fn other(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let py = object.py();
    if object.is_instance(python::uuid_class(py)?)? {
        return uuid(out, &python::uuid_bytes(object)?);
    }
    if let Ok(array) = object.cast_exact::<PyByteArray>() {
        return bytes(out, &array.to_vec());
    }
    let has = |name: &Bound<'_, PyString>| object.hasattr(name);
    if object.is_instance(python::numpy_scalar(py)?)? {
        let item = object.call_method0(intern!(py, "item"))?;
        if item.get_type().is(object.get_type()) {
            // Wider than any number of Python's, as `numpy.longdouble` is.
            return rare(out, object);
        }
        return value(out, &item, depth + 1);
    }
    if has(intern!(py, "tobytes"))? && has(intern!(py, "dtype"))? && has(intern!(py, "shape"))? {
        return array(out, object, depth);
    }
    rare(out, object)
}

/// An array with its data: any object that has `tobytes`, `dtype` and `shape`.
fn array(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let py = object.py();
    let dtype = object.getattr(intern!(py, "dtype"))?;
    if dtype.getattr(intern!(py, "hasobject")).and_then(|has| has.is_truthy()).unwrap_or(false) {
        return Err(PyTypeError::new_err(format!(
            "an array of Python objects (dtype {dtype}) has no bytes to send; give it a numeric dtype"
        )));
    }
    written(mp::write_map_len(out, 3))?;
    text(out, "__ndarray__")?;
    value(out, &object.call_method0(intern!(py, "tobytes"))?, depth + 1)?;
    text(out, "dtype")?;
    text(out, dtype.str()?.to_str()?)?;
    text(out, "shape")?;
    let shape: Vec<i64> = object.getattr(intern!(py, "shape"))?.extract()?;
    value(out, &shape.into_bound_py_any(py)?, depth + 1)
}

/// Extension types, time stamps, memory views, subclasses of plain types: as the package `msgpack` has them.
fn rare(out: &mut Vec<u8>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    static PACK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let packed =
        PACK.import(object.py(), "pydotcompute.ring_kernels._msgpack_fallback", "pack")?.call1((object,))?;
    out.extend_from_slice(packed.cast::<PyBytes>()?.as_bytes());
    Ok(())
}
