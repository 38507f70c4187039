//! Operations on Python objects that messages need and PyO3 lacks.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use pyo3::{ffi, intern};

/// Calls `object()`.
pub(super) fn new_object(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.get_type::<PyAny>().call0()
}

/// Calls `object.__getattribute__(object, name)`, which bypasses an override in the class.
pub(super) fn generic_get<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both objects are live, and the thread is attached. The result is a new reference, or null with an error set.
    unsafe {
        Bound::from_owned_ptr_or_err(
            object.py(),
            ffi::PyObject_GenericGetAttr(object.as_ptr(), name.as_ptr()),
        )
    }
}

/// Calls `object.__setattr__(object, name, value)`, which bypasses an override in the class, such as that of a frozen dataclass.
pub(super) fn generic_set<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyAny>,
) -> PyResult<()> {
    // SAFETY: all three objects are live, and the thread is attached. The attribute takes its own reference to the value.
    let status = unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
    if status < 0 { Err(PyErr::fetch(object.py())) } else { Ok(()) }
}

/// The class `uuid.UUID`.
pub(super) fn uuid_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "uuid", "UUID")
}

/// `uuid.SafeUUID.unknown`, the value for every UUID that the operating system did not generate.
fn safe_unknown(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static UNKNOWN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(UNKNOWN
        .get_or_try_init(py, || {
            py.import("uuid")?.getattr("SafeUUID")?.getattr("unknown").map(Bound::unbind)
        })?
        .bind(py))
}

/// Creates a `uuid.UUID` from 16 bytes. Sets the same two slots as `__init__`, without its checks.
pub(super) fn uuid_from_bytes<'py>(py: Python<'py>, bytes: &[u8; 16]) -> PyResult<Bound<'py, PyAny>> {
    let class = uuid_class(py)?;
    // SAFETY: the class is a live heap type with item size 0. The result is a new reference, or null with an error set.
    let uuid = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
    generic_set(&uuid, intern!(py, "int"), u128::from_be_bytes(*bytes).into_pyobject(py)?.as_any())?;
    generic_set(&uuid, intern!(py, "is_safe"), safe_unknown(py)?)?;
    Ok(uuid)
}

/// Returns the 16 bytes of a `uuid.UUID`.
pub(super) fn uuid_bytes(uuid: &Bound<'_, PyAny>) -> PyResult<[u8; 16]> {
    let number: u128 = uuid.getattr(intern!(uuid.py(), "int"))?.extract()?;
    Ok(number.to_be_bytes())
}

/// The class `numpy.generic`, the base of NumPy scalars.
pub(super) fn numpy_scalar(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "numpy", "generic")
}
