//! GPU memory for other libraries, by DLPack (<https://dmlc.github.io/dlpack/latest/c_api.html>).
//!
//! Exports use the unversioned layout, which every consumer accepts.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::buffer_memory::DeviceCopy;

/// Name of a capsule that no consumer has taken. A consumer renames it.
const NAME: &CStr = c"dltensor";
/// Device type of CUDA (`kDLCUDA`).
const CUDA: i32 = 2;

#[repr(C)]
struct Device {
    kind: i32,
    index: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct ManagedTensor {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// A tensor and the memory it points to. The tensor is the first field, so a pointer to it is a pointer to the whole struct.
#[repr(C)]
struct Export {
    managed: ManagedTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
    owner: Option<Py<PyAny>>,
}

impl Drop for Export {
    fn drop(&mut self) {
        let owner = self.owner.take();
        // A consumer may release the tensor on any thread. After the interpreter has shut down, no reference needs to be dropped.
        let _ = Python::try_attach(|_| drop(owner));
    }
}

/// Frees an export. The consumer calls it when it no longer needs the tensor.
unsafe extern "C" fn delete(managed: *mut ManagedTensor) {
    // SAFETY: `device_capsule` sets this function only for the first field of a leaked `Box<Export>`, and the DLPack protocol calls the
    // deleter once.
    drop(unsafe { Box::from_raw(managed.cast::<Export>()) });
}

/// Destructor of a capsule: frees the export if no consumer has taken it.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: CPython calls the destructor with a live capsule, on an attached thread.
    let managed = unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 0 {
            return;
        }
        ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr())
    };
    // SAFETY: a capsule of this name was created by `device_capsule` and still owns the leaked box: a consumer would have renamed it.
    unsafe { delete(managed.cast()) };
}

/// Returns the strides of an array in C order, in elements. `None` on overflow.
fn strides_of(shape: &[i64]) -> Option<Vec<i64>> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = shape[at].checked_mul(strides[at])?;
    }
    Some(strides)
}

/// Creates a DLPack capsule for device memory, as an array in C order.
///
/// Args:
///     memory: The device memory.
///     owner: Object kept alive until the consumer releases the tensor.
///     shape: Shape of the array.
///     code: DLPack type code of the elements.
///     bits: Bits of an element.
///     index: CUDA device index.
///
/// Returns:
///     The capsule.
///
/// Raises:
///     ValueError: The array does not fit into the memory.
#[pyfunction]
pub(super) fn device_capsule(
    py: Python<'_>,
    memory: &DeviceCopy,
    owner: Py<PyAny>,
    shape: Vec<i64>,
    code: u8,
    bits: u8,
    index: i32,
) -> PyResult<Py<PyAny>> {
    let does_not_fit = || {
        PyValueError::new_err(format!(
            "exporting device memory by DLPack: it does not hold an array of shape {shape:?} with elements of {bits} bits"
        ))
    };
    let dimensions = i32::try_from(shape.len()).map_err(|_| does_not_fit())?;
    let elements = shape
        .iter()
        .try_fold(1_i64, |product, &size| product.checked_mul(size.max(0)))
        .ok_or_else(does_not_fit)?;
    let bytes = u128::try_from(elements).map_err(|_| does_not_fit())? * u128::from(bits).div_ceil(8);
    if bytes > memory.0.len(py) as u128 {
        return Err(does_not_fit());
    }
    let strides = strides_of(&shape).ok_or_else(does_not_fit)?;
    let tensor = Tensor {
        data: std::ptr::without_provenance_mut(memory.0.address() as usize),
        device: Device { kind: CUDA, index },
        dimensions,
        dtype: DataType { code, bits, lanes: 1 },
        shape: std::ptr::null_mut(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };
    let managed = ManagedTensor { tensor, context: std::ptr::null_mut(), deleter: Some(delete) };
    let mut export = Box::new(Export { managed, shape, strides, owner: Some(owner) });
    export.managed.tensor.shape = export.shape.as_mut_ptr();
    export.managed.tensor.strides = export.strides.as_mut_ptr();
    let raw = NonNull::from(Box::leak(export)).cast::<c_void>();
    // SAFETY: the pointer is not null and stays valid until `delete` frees the leaked box; the name is static.
    let capsule = unsafe { ffi::PyCapsule_New(raw.as_ptr(), NAME.as_ptr(), Some(drop_capsule)) };
    if capsule.is_null() {
        // SAFETY: no capsule was created, so this function still owns the box that it leaked above.
        unsafe { delete(raw.as_ptr().cast()) };
        return Err(PyErr::fetch(py));
    }
    // SAFETY: `PyCapsule_New` returned a new reference, which this function owns.
    Ok(unsafe { Bound::from_owned_ptr(py, capsule) }.unbind())
}
