//! Errors of wrong calls, in Python's words.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Rejects positional arguments after the first one, for a function that takes one.
///
/// The error of `PyO3` would say "takes 1 positional arguments". So such a function collects the others in `extra`, and its text signature
/// does not show them.
///
/// # Errors
///
/// `TypeError`, which names `function`.
#[inline]
pub(crate) fn take_one(function: &str, extra: &Bound<'_, PyTuple>) -> PyResult<()> {
    if extra.is_empty() { Ok(()) } else { Err(too_many(function, extra.len() + 1)) }
}

#[cold]
fn too_many(function: &str, given: usize) -> PyErr {
    PyTypeError::new_err(format!("{function}() takes 1 positional argument but {given} were given"))
}
