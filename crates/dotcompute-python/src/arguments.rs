//! Errors of wrong calls, in Python's words.
//!
//! `PyO3` would say "takes 1 positional arguments". So a function of one argument collects the others itself, and its text signature does not
//! show them.

use std::convert::Infallible;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Rejects positional arguments after the first one, for a function that takes one.
///
/// # Errors
///
/// `TypeError`, which names `function`.
#[inline]
pub(crate) fn take_one(function: &str, others: &Bound<'_, PyTuple>) -> PyResult<()> {
    if others.is_empty() { Ok(()) } else { Err(too_many(function, others.len() + 1)) }
}

/// The second argument of a function that takes one. Costs nothing, unlike a tuple, in calls of some tens of nanoseconds. With more than two
/// arguments the error is that of `PyO3`, which then says "from 1 to 2".
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    Absent,
    Given,
}

impl FromPyObject<'_, '_> for Second {
    type Error = Infallible;

    fn extract(_: Borrowed<'_, '_, PyAny>) -> Result<Self, Infallible> {
        Ok(Second::Given)
    }
}

impl Second {
    /// Rejects the argument.
    ///
    /// # Errors
    ///
    /// `TypeError`, which names `function`.
    #[inline]
    pub(crate) fn reject(self, function: &str) -> PyResult<()> {
        if self == Second::Absent { Ok(()) } else { Err(too_many(function, 2)) }
    }
}

#[cold]
fn too_many(function: &str, given: usize) -> PyErr {
    PyTypeError::new_err(format!("{function}() takes 1 positional argument but {given} were given"))
}
