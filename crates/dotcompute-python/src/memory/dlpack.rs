//! Memory of a GPU for other libraries, by DLPack (<https://dmlc.github.io/dlpack/latest/c_api.html>, the layout before versions, which
//! every consumer takes).

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::buffer_memory::DeviceCopy;

/// What a capsule is called that nobody has taken yet.
const NAME: &CStr = c"dltensor";
/// DLPack's number of CUDA.
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

/// A tensor with what it points to. The tensor comes first, so that a pointer to it is one to all of this.
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
        // A consumer may be done in any thread. After the interpreter has ended there is nothing to let go of.
        let _ = Python::try_attach(|_| drop(owner));
    }
}

/// Ends an export; what a consumer calls when it is done.
unsafe extern "C" fn delete(managed: *mut ManagedTensor) {
    // SAFETY: `managed` is the first field of an `Export` that was boxed, and the protocol calls this once.
    drop(unsafe { Box::from_raw(managed.cast::<Export>()) });
}

/// Ends the export of a capsule that nobody has taken; whoever takes one renames it.
unsafe extern "C" fn end_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule that is being ended, while it is attached.
    let managed = unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 0 {
            return;
        }
        ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr())
    };
    // SAFETY: a capsule of this name holds what `device_capsule` has boxed.
    unsafe { delete(managed.cast()) };
}

/// The strides of an array in C order, in elements; none if it has too many of them to count.
fn strides_of(shape: &[i64]) -> Option<Vec<i64>> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = shape[at].checked_mul(strides[at])?;
    }
    Some(strides)
}

/// A capsule of DLPack for device memory, as an array in C order of elements of this code and size. `owner` lives as long as a consumer
/// has it.
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
    let wrong = || {
        PyValueError::new_err(format!("the memory does not hold an array of shape {shape:?} of {bits} bits"))
    };
    let dimensions = i32::try_from(shape.len()).map_err(|_| wrong())?;
    let elements =
        shape.iter().try_fold(1_i64, |all, &size| all.checked_mul(size.max(0))).ok_or_else(wrong)?;
    let bytes = u128::try_from(elements).map_err(|_| wrong())? * u128::from(bits).div_ceil(8);
    if bytes > memory.0.len(py) as u128 {
        return Err(wrong());
    }
    let strides = strides_of(&shape).ok_or_else(wrong)?;
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
    // SAFETY: the pointer is not null, and stays good until `delete`; the name is static.
    let capsule = unsafe { ffi::PyCapsule_New(raw.as_ptr(), NAME.as_ptr(), Some(end_capsule)) };
    if capsule.is_null() {
        // SAFETY: it was boxed above, and nobody else knows of it.
        unsafe { delete(raw.as_ptr().cast()) };
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference, which is ours.
    Ok(unsafe { Bound::from_owned_ptr(py, capsule) }.unbind())
}
