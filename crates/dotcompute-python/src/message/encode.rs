//! Python values to MessagePack.
//!
//! What pydotcompute 0.2 wrote, this writes: UUIDs as `{"__uuid_bin__": bytes}`, arrays as `{"__ndarray__", "dtype", "shape"}`, NumPy's
//! scalars as numbers. Types that are rare (extension types, subclasses) are left to the package `msgpack`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
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
    if let Ok(truth) = object.extract::<bool>()
        && object.is_exact_instance_of::<pyo3::types::PyBool>()
    {
        return written(mp::write_bool(out, truth));
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
    if let Ok(list) = object.cast_exact::<PyList>() {
        written(mp::write_array_len(out, length(list.len())?))?;
        return list.iter().try_for_each(|item| value(out, &item, depth + 1));
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        written(mp::write_array_len(out, length(tuple.len())?))?;
        return tuple.iter().try_for_each(|item| value(out, &item, depth + 1));
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        written(mp::write_map_len(out, length(dict.len())?))?;
        return dict.iter().try_for_each(|(key, item)| {
            value(out, &key, depth + 1)?;
            value(out, &item, depth + 1)
        });
    }
    other(out, object, depth)
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
        return value(out, &object.call_method0(intern!(py, "item"))?, depth + 1);
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
    let packed = PACK.import(object.py(), "pydotcompute.ring_kernels._rare", "pack")?.call1((object,))?;
    out.extend_from_slice(packed.cast::<PyBytes>()?.as_bytes());
    Ok(())
}
