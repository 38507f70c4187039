//! Message ids that are made when first read.
//!
//! A UUID object costs Python more than a whole round trip to a ring kernel, and most messages are never asked for theirs. So a message
//! is made without one: the data descriptor [`MessageIdField`] stands for the field `message_id`, and keeps in `_message_id` what there
//! is: nothing (the class's `None`), the 16 bytes that came from the wire, or the `uuid.UUID` that somebody has read.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};
use pyo3::{ffi, intern};

use super::python;

/// Ids are drawn from the operating system this many at a time.
const SPARE: usize = 256;

/// Random bytes of ids not given out yet. They must not be used on both sides of a fork: see [`discard_spare_ids`].
static SPARE_IDS: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());

/// What `message_id` is set to by a message's `__init__` when the caller gave none.
static LAZY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn lazy(py: Python<'_>) -> &Bound<'_, PyAny> {
    LAZY.get_or_init(py, || {
        // An object with an identity and nothing else.
        python::new_object(py).expect("object() takes no argument and needs no memory to speak of").unbind()
    })
    .bind(py)
}

/// A random id of version 4 (RFC 9562, section 5.4).
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
    Ok(spare.pop().expect("as many as were drawn"))
}

/// Throws away the ids that were drawn ahead. Called in the child after a fork, which would otherwise give out its parent's ids.
#[pyfunction]
pub(crate) fn discard_spare_ids() {
    SPARE_IDS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The default of the field `message_id`: a mark that says "make one when asked".
#[pyfunction]
pub(crate) fn lazy_message_id(py: Python<'_>) -> Py<PyAny> {
    lazy(py).clone().unbind()
}

/// The 16 bytes of a message's id, made now if there is none. `None` where the message's class has no such field, or holds something
/// that is not an id.
pub(super) fn id_bytes(message: &Bound<'_, PyAny>) -> PyResult<Option<[u8; 16]>> {
    let py = message.py();
    let kept = python::generic_get(message, intern!(py, "_message_id"))?;
    if kept.is_none() {
        let id = random()?;
        python::generic_set(message, intern!(py, "_message_id"), &PyBytes::new(py, &id))?;
        return Ok(Some(id));
    }
    if let Ok(bytes) = kept.cast_exact::<PyBytes>() {
        return Ok(bytes.as_bytes().try_into().ok());
    }
    if kept.is_instance(python::uuid_class(py)?)? {
        return python::uuid_bytes(&kept).map(Some);
    }
    Ok(None)
}

/// Gives a message the id that came with its bytes.
pub(super) fn set_id_bytes(message: &Bound<'_, PyAny>, id: &[u8; 16]) -> PyResult<()> {
    let py = message.py();
    python::generic_set(message, intern!(py, "_message_id"), &PyBytes::new(py, id))
}

/// The data descriptor behind `message_id`.
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
            // As with any field that has a default factory: it is the instance's, not the class's.
            return Err(PyAttributeError::new_err(
                "message_id is an attribute of messages, not of their class",
            ));
        }
        let kept = python::generic_get(instance, intern!(py, "_message_id"))?;
        let id = match kept.cast_exact::<PyBytes>() {
            Ok(bytes) => match <[u8; 16]>::try_from(bytes.as_bytes()) {
                Ok(id) => id,
                Err(_) => return Ok(kept),
            },
            Err(_) if kept.is_none() => random()?,
            Err(_) => return Ok(kept),
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
        // SAFETY: both are live objects, and the interpreter is held; a null value asks for deletion.
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
