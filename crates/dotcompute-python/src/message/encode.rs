//! Python values to MessagePack.
//!
//! The format is that of pydotcompute 0.2: UUIDs are `{"__uuid_bin__": bytes}`, arrays are `{"__ndarray__", "dtype", "shape"}`, and NumPy
//! scalars are numbers. The package `msgpack` encodes rare types (extension types, subclasses).

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use rmp::encode as mp;

use super::python;

/// Maximum nesting depth, as in the package `msgpack`. It also stops a list that contains itself.
const MAX_DEPTH: usize = 511;

/// Converts a length. MessagePack lengths have at most 32 bits.
fn length(len: usize) -> PyResult<u32> {
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
/// `TypeError` for an object that MessagePack cannot encode, `OverflowError` for integers of more than 64 bits, `ValueError` for values
/// nested too deep or too long.
pub(super) fn value(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
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
    container(out, object, depth)
}

fn integer(out: &mut Vec<u8>, number: &Bound<'_, PyInt>) -> PyResult<()> {
    if let Ok(signed) = number.extract::<i64>() {
        return written(mp::write_sint(out, signed));
    }
    match number.extract::<u64>() {
        Ok(unsigned) => written(mp::write_uint(out, unsigned)),
        Err(_) => Err(PyOverflowError::new_err(format!("the integer {number} needs more than 64 bits"))),
    }
}

fn container(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    if depth >= MAX_DEPTH {
        return Err(PyValueError::new_err(format!(
            "values are nested more than {MAX_DEPTH} deep, or contain themselves"
        )));
    }
    // Includes subclasses, such as named tuples, `OrderedDict` and `defaultdict`.
    if let Ok(list) = object.cast::<PyList>() {
        return sequence(out, list.len(), list.iter(), depth);
    }
    if let Ok(tuple) = object.cast::<PyTuple>()
        && (object.is_exact_instance_of::<PyTuple>() || !object.is_instance(extension(object.py())?)?)
    {
        return sequence(out, tuple.len(), tuple.iter(), depth);
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        // Iterate over a copy: encoding an item may run Python code that changes the dictionary.
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

/// The class `msgpack.ExtType`: a subclass of `tuple` that is not a MessagePack array.
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

/// Appends an object that is neither a plain value nor a plain container.
fn other(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let py = object.py();
    if object.is_instance(python::uuid_class(py)?)? {
        return uuid(out, &python::uuid_bytes(object)?);
    }
    if let Ok(array) = object.cast_exact::<PyByteArray>() {
        return bytes(out, &array.to_vec());
    }
    let has_attribute = |name: &Bound<'_, PyString>| object.hasattr(name);
    if object.is_instance(python::numpy_scalar(py)?)? {
        let item = object.call_method0(intern!(py, "item"))?;
        if item.get_type().is(object.get_type()) {
            // `item` returned the same type: Python has no number as wide, as for `numpy.longdouble`.
            return msgpack_fallback(out, object);
        }
        return value(out, &item, depth + 1);
    }
    if has_attribute(intern!(py, "tobytes"))?
        && has_attribute(intern!(py, "dtype"))?
        && has_attribute(intern!(py, "shape"))?
    {
        return array(out, object, depth);
    }
    msgpack_fallback(out, object)
}

/// Appends an array: any object with `tobytes`, `dtype` and `shape`.
fn array(out: &mut Vec<u8>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let py = object.py();
    let dtype = object.getattr(intern!(py, "dtype"))?;
    if dtype.getattr(intern!(py, "hasobject")).and_then(|has| has.is_truthy()).unwrap_or(false) {
        return Err(PyTypeError::new_err(format!(
            "an array of Python objects (dtype {dtype}) cannot be sent; use a numeric dtype"
        )));
    }
    written(mp::write_map_len(out, 3))?;
    string(out, "__ndarray__")?;
    value(out, &object.call_method0(intern!(py, "tobytes"))?, depth + 1)?;
    string(out, "dtype")?;
    string(out, dtype.str()?.to_str()?)?;
    string(out, "shape")?;
    let shape: Vec<i64> = object.getattr(intern!(py, "shape"))?.extract()?;
    value(out, &shape.into_bound_py_any(py)?, depth + 1)
}

/// Appends an object that only the package `msgpack` encodes: extension types, timestamps, memory views, subclasses of plain types.
fn msgpack_fallback(out: &mut Vec<u8>, object: &Bound<'_, PyAny>) -> PyResult<()> {
    static PACK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let packed =
        PACK.import(object.py(), "pydotcompute.ring_kernels._msgpack_fallback", "pack")?.call1((object,))?;
    out.extend_from_slice(packed.cast::<PyBytes>()?.as_bytes());
    Ok(())
}
