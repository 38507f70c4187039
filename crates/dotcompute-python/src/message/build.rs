//! Creates a message from decoded values.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use pyo3::{ffi, intern};

use super::codec::{Field, MessageCodec};
use super::{id, python};

/// The decoded values by field, and the id as bytes.
pub(super) struct DecodedFields<'py> {
    pub(super) values: Vec<Option<Bound<'py, PyAny>>>,
    pub(super) id: Option<[u8; 16]>,
}

impl MessageCodec {
    /// Creates a message from decoded values.
    pub(super) fn build<'py>(
        &self,
        py: Python<'py>,
        decoded: DecodedFields<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let complete = self.fields.iter().zip(&decoded.values).all(|(field, value)| {
            value.is_some() || field.default.is_some() || (self.lazy_id && *field.key == *"message_id")
        });
        // The constructor calls default factories and reports missing fields.
        if self.is_plain && complete { self.assemble(py, decoded) } else { self.call(py, decoded) }
    }

    fn assemble<'py>(&self, py: Python<'py>, decoded: DecodedFields<'py>) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class.bind(py);
        // SAFETY: a plain class is a heap type that inherits `object.__new__`, which allocates in the same way. The result is a new
        // reference or null with an error set.
        let message =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
        for (field, value) in self.fields.iter().zip(decoded.values) {
            match (value, &field.default) {
                (Some(value), _) => {
                    check_priority(&field.key, &value)?;
                    set_field(&message, field, &value)?;
                }
                (None, Some(default)) => set_field(&message, field, default.bind(py))?,
                // Only the id, which is set below.
                (None, None) => {}
            }
        }
        if let Some(id) = decoded.id {
            id::set_id_bytes(&message, &id)?;
        }
        Ok(message)
    }

    fn call<'py>(&self, py: Python<'py>, decoded: DecodedFields<'py>) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyDict::new(py);
        let mut others = Vec::new();
        for (field, value) in self.fields.iter().zip(decoded.values) {
            match value {
                Some(value) if field.init => arguments.set_item(field.name.bind(py), value)?,
                Some(value) => others.push((field, value)),
                None => {}
            }
        }
        if let Some(id) = decoded.id {
            arguments.set_item(intern!(py, "message_id"), python::uuid_from_bytes(py, &id)?)?;
        }
        let message = self.class.bind(py).call((), Some(&arguments))?;
        // The constructor has set fields without a parameter to other values. Restore the values of the encoded message.
        others.iter().try_for_each(|(field, value)| set_field(&message, field, value))?;
        Ok(message)
    }
}

fn set_field(message: &Bound<'_, PyAny>, field: &Field, value: &Bound<'_, PyAny>) -> PyResult<()> {
    python::generic_set(message, field.name.bind(message.py()), value)
}

/// Checks the priority, since a message whose attributes are set directly does not run `__post_init__`.
fn check_priority(name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if name == "priority" && !value.extract::<i64>().is_ok_and(|priority| (0..=255).contains(&priority)) {
        return Err(PyValueError::new_err(format!("Priority must be 0-255, got {}", value.repr()?)));
    }
    Ok(())
}

/// Converts an id. Older versions encode ids as strings or plain bytes.
pub(super) fn as_id(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = value.py();
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        let bytes: [u8; 16] =
            bytes.as_bytes().try_into().map_err(|_| PyValueError::new_err("an id does not have 16 bytes"))?;
        return python::uuid_from_bytes(py, &bytes);
    }
    if value.is_exact_instance_of::<PyString>() { python::uuid_class(py)?.call1((value,)) } else { Ok(value) }
}
