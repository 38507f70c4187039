//! What messages need of Python's objects that PyO3 has no short way for.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use pyo3::{ffi, intern};

/// `object()`.
pub(super) fn new_object(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.get_type::<PyAny>().call0()
}

/// `object.__getattribute__(object, name)`: past whatever the class overrides.
pub(super) fn generic_get<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both are live objects and the interpreter is held; the result is a new reference, or null with an error set.
    unsafe {
        Bound::from_owned_ptr_or_err(
            object.py(),
            ffi::PyObject_GenericGetAttr(object.as_ptr(), name.as_ptr()),
        )
    }
}

/// `object.__setattr__(object, name, value)`: past whatever the class overrides, as frozen dataclasses do.
pub(super) fn generic_set<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyAny>,
) -> PyResult<()> {
    // SAFETY: all are live objects and the interpreter is held; the value's reference is taken by the attribute itself.
    let status = unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
    if status < 0 { Err(PyErr::fetch(object.py())) } else { Ok(()) }
}

/// `uuid.UUID`.
pub(super) fn uuid_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "uuid", "UUID")
}

/// `uuid.SafeUUID.unknown`, which every UUID that was not made by the operating system carries.
fn safe_unknown(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static UNKNOWN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(UNKNOWN
        .get_or_try_init(py, || {
            py.import("uuid")?.getattr("SafeUUID")?.getattr("unknown").map(Bound::unbind)
        })?
        .bind(py))
}

/// A `uuid.UUID` of 16 bytes, made as its own `__init__` does (two slots set), without that method's checks.
pub(super) fn uuid_from_bytes<'py>(py: Python<'py>, bytes: &[u8; 16]) -> PyResult<Bound<'py, PyAny>> {
    let class = uuid_class(py)?;
    // SAFETY: the class is a live heap type whose allocator takes no items; null with an error set is handled.
    let uuid = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
    generic_set(&uuid, intern!(py, "int"), u128::from_be_bytes(*bytes).into_pyobject(py)?.as_any())?;
    generic_set(&uuid, intern!(py, "is_safe"), safe_unknown(py)?)?;
    Ok(uuid)
}

/// The 16 bytes of a `uuid.UUID`.
pub(super) fn uuid_bytes(uuid: &Bound<'_, PyAny>) -> PyResult<[u8; 16]> {
    let number: u128 = uuid.getattr(intern!(uuid.py(), "int"))?.extract()?;
    Ok(number.to_be_bytes())
}

/// `numpy.generic`, of which NumPy's scalars are.
pub(super) fn numpy_scalar(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "numpy", "generic")
}
