//! Message ids created on first read.
//!
//! Creating a UUID object in Python takes longer than a round trip to a ring kernel, and most ids are never read. So a message is created
//! without one. The data descriptor [`MessageIdField`] implements the field `message_id`. It stores in `_message_id` one of three values:
//! nothing (the `None` of the class), the 16 bytes received, or the `uuid.UUID` after the first read.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};
use pyo3::{ffi, intern};

use super::python;

/// Number of ids drawn from the operating system at a time.
const SPARE: usize = 256;

/// Random ids not used yet. Both sides of a fork must not use the same ones: see [`discard_spare_ids`].
static SPARE_IDS: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());

/// The value that `__init__` of a message assigns to `message_id` if the caller passed none.
static LAZY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn lazy(py: Python<'_>) -> &Bound<'_, PyAny> {
    LAZY.get_or_init(py, || {
        // A sentinel: only its identity matters.
        python::new_object(py)
            .expect("creating a sentinel: object() takes no arguments and fails only without memory")
            .unbind()
    })
    .bind(py)
}

/// Returns a random id of version 4 (RFC 9562, section 5.4).
fn random() -> PyResult<[u8; 16]> {
    let mut spare = SPARE_IDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = spare.pop() {
        return Ok(id);
    }
    let mut bytes = [0_u8; 16 * SPARE];
    getrandom::fill(&mut bytes).map_err(|error| {
        pyo3::exceptions::PyOSError::new_err(format!("drawing random message ids: {error}"))
    })?;
    let (chunks, _) = bytes.as_chunks::<16>();
    spare.extend(chunks.iter().map(|chunk| *uuid::Builder::from_random_bytes(*chunk).as_uuid().as_bytes()));
    Ok(spare.pop().expect("SPARE ids were just added"))
}

/// Discards the spare ids. The child calls it after a fork, since it would otherwise use the ids of its parent.
#[pyfunction]
pub(crate) fn discard_spare_ids() {
    SPARE_IDS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Default factory of the field `message_id`: returns a sentinel for "create on first read".
#[pyfunction]
pub(crate) fn lazy_message_id(py: Python<'_>) -> Py<PyAny> {
    lazy(py).clone().unbind()
}

/// Returns the 16 bytes of the id of a message. Creates the id if there is none. `None` if the value is not an id.
pub(super) fn id_bytes(message: &Bound<'_, PyAny>) -> PyResult<Option<[u8; 16]>> {
    let py = message.py();
    let stored = python::generic_get(message, intern!(py, "_message_id"))?;
    if stored.is_none() {
        let id = random()?;
        python::generic_set(message, intern!(py, "_message_id"), &PyBytes::new(py, &id))?;
        return Ok(Some(id));
    }
    if let Ok(bytes) = stored.cast_exact::<PyBytes>() {
        return Ok(bytes.as_bytes().try_into().ok());
    }
    if stored.is_instance(python::uuid_class(py)?)? {
        return python::uuid_bytes(&stored).map(Some);
    }
    Ok(None)
}

/// Sets the id of a message that was decoded.
pub(super) fn set_id_bytes(message: &Bound<'_, PyAny>, id: &[u8; 16]) -> PyResult<()> {
    let py = message.py();
    python::generic_set(message, intern!(py, "_message_id"), &PyBytes::new(py, id))
}

/// The data descriptor that implements `message_id`.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct MessageIdField;

#[pymethods]
impl MessageIdField {
    #[new]
    fn new() -> Self {
        MessageIdField
    }

    fn __get__<'py>(
        &self,
        instance: &Bound<'py, PyAny>,
        _owner: Option<&Bound<'py, PyType>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = instance.py();
        if instance.is_none() {
            // As for any dataclass field with a default factory, the class has no such attribute.
            return Err(PyAttributeError::new_err(
                "reading message_id: the attribute exists on messages, not on their class",
            ));
        }
        let stored = python::generic_get(instance, intern!(py, "_message_id"))?;
        let id = match stored.cast_exact::<PyBytes>() {
            Ok(bytes) => match <[u8; 16]>::try_from(bytes.as_bytes()) {
                Ok(id) => id,
                Err(_) => return Ok(stored),
            },
            Err(_) if stored.is_none() => random()?,
            Err(_) => return Ok(stored),
        };
        let uuid = python::uuid_from_bytes(py, &id)?;
        python::generic_set(instance, intern!(py, "_message_id"), &uuid)?;
        Ok(uuid)
    }

    fn __set__(&self, instance: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = instance.py();
        if value.is(lazy(py)) {
            return Ok(());
        }
        python::generic_set(instance, intern!(py, "_message_id"), value)
    }

    fn __delete__(&self, instance: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = instance.py();
        // SAFETY: both objects are live, and the thread is attached. A null value deletes the attribute.
        let status = unsafe {
            ffi::PyObject_GenericSetAttr(
                instance.as_ptr(),
                intern!(py, "_message_id").as_ptr(),
                std::ptr::null_mut(),
            )
        };
        if status < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
    }
}
