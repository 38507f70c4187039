//! What decoded maps and extension types stand for: ids, arrays, and the extension types of the package `msgpack`.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::python;
use super::reader::Reader;

/// Converts a map to the value that it encodes: an id, an array, or the map itself.
pub(super) fn object(entries: Bound<'_, PyDict>) -> PyResult<Bound<'_, PyAny>> {
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
    let (dtype, shape) = (dtype_of(entry(intern!(py, "dtype"))?)?, entry(intern!(py, "shape"))?);
    let shape = PyTuple::new(py, shape.extract::<Vec<i64>>()?)?;
    let flat = FROM_BUFFER.import(py, "numpy", "frombuffer")?.call1((data, dtype))?;
    flat.call_method1(intern!(py, "reshape"), (shape,))?.call_method0(intern!(py, "copy"))
}

/// Returns what NumPy takes as the element type of an array: the name in the bytes, or the type with the fields in the bytes.
fn dtype_of<'py>(described: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DTYPE_OF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if described.is_exact_instance_of::<PyString>() {
        return Ok(described);
    }
    if !described.is_exact_instance_of::<PyList>() {
        return Err(PyValueError::new_err("the dtype of an array is neither a name nor a list of fields"));
    }
    let create = DTYPE_OF.import(described.py(), "pydotcompute.ring_kernels._message_values", "dtype_of")?;
    create.call1((described,))
}

/// Decodes an extension type with the package `msgpack`.
pub(super) fn extension<'py>(
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
