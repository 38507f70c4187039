//! Errors of serialization: they name the class, the field and the cause.

use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Adds the name of the field to an error. The error keeps its type if that takes a single string.
pub(super) fn in_field(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let class = error.get_type(py);
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let text = format!("field '{name}': {}", error.value(py));
    let keeps_type =
        [py.get_type::<PyTypeError>(), py.get_type::<PyValueError>(), py.get_type::<PyOverflowError>()];
    let outer = match keeps_type.iter().any(|candidate| candidate.is(&class)) {
        true => PyErr::from_type(class, text),
        false => PyValueError::new_err(text),
    };
    outer.set_cause(py, Some(error));
    outer
}

fn error_class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("pydotcompute.exceptions")?.getattr(name)
}

/// Wraps an error in an exception of the package, with the class and the cause.
pub(super) fn wrapped(class: &Bound<'_, PyType>, name: &str, cause: PyErr) -> PyErr {
    let py = class.py();
    if !cause.is_instance_of::<PyException>(py) {
        return cause;
    }
    let created = error_class(py, name).and_then(|error| error.call1((class, cause.value(py))));
    match created {
        Ok(error) => {
            let error = PyErr::from_value(error);
            error.set_cause(py, Some(cause));
            error
        }
        Err(error) => error,
    }
}
