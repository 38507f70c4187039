//! The plain types that the annotation of a field names.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

/// Types that MessagePack has, as bits. `PLAIN_BITS` in `pydotcompute/ring_kernels/_message_values.py` has the same numbers.
///
/// A value that stands for one of them is written as this type, without a mark: a NumPy scalar in a field declared as `float`, a tuple in
/// a field declared as `list`. Elsewhere a mark keeps its own type.
#[derive(Clone, Copy)]
pub(super) struct PlainTypes(u16);

impl PlainTypes {
    pub(super) const NONE: Self = PlainTypes(0);
    const BOOL: u16 = 1;
    const INT: u16 = 2;
    const FLOAT: u16 = 4;
    const STR: u16 = 8;
    const BYTES: u16 = 16;
    const LIST: u16 = 32;

    pub(super) fn new(bits: u16) -> Self {
        PlainTypes(bits)
    }

    pub(super) fn bits(self) -> u16 {
        self.0
    }

    pub(super) fn has_list(self) -> bool {
        self.0 & Self::LIST != 0
    }

    /// Whether the annotation names the exact type of a number, string or bytes.
    pub(super) fn has_type_of(self, object: &Bound<'_, PyAny>) -> bool {
        let bit = if object.is_exact_instance_of::<PyFloat>() {
            Self::FLOAT
        } else if object.is_exact_instance_of::<PyInt>() {
            Self::INT
        } else if object.is_exact_instance_of::<PyBool>() {
            Self::BOOL
        } else if object.is_exact_instance_of::<PyString>() {
            Self::STR
        } else if object.is_exact_instance_of::<PyBytes>() {
            Self::BYTES
        } else {
            0
        };
        self.0 & bit != 0
    }
}

/// Where a value is: its nesting depth, and the types that its field declares.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) depth: usize,
    pub(super) declared: PlainTypes,
}

impl Place {
    /// The place of a value inside `levels` lists or maps.
    pub(super) fn inside(self, levels: usize) -> Self {
        Place { depth: self.depth + levels, ..self }
    }
}
