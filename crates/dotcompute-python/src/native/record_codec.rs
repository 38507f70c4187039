//! Python messages to records and back. Packing writes attributes to their offsets, and unpacking sets attributes without `__init__`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};

use dotcompute_core::message::record::RecordBytes;

/// The type of a number in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScalarType {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
}

impl ScalarType {
    /// Finds a type by its NumPy name.
    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "int8" => Self::I8,
            "int16" => Self::I16,
            "int32" => Self::I32,
            "int64" => Self::I64,
            "uint8" => Self::U8,
            "uint16" => Self::U16,
            "uint32" => Self::U32,
            "uint64" => Self::U64,
            "float32" => Self::F32,
            "float64" => Self::F64,
            _ => return None,
        })
    }
}

/// The kind of a field.
enum FieldKind {
    Scalar(ScalarType),
    /// A NumPy array of fixed type and shape.
    Array {
        dtype: Py<PyAny>,
        shape: Py<PyTuple>,
        bytes: usize,
    },
}

struct Field {
    name: Py<PyString>,
    offset: usize,
    kind: FieldKind,
}

/// Packs messages of one class into records, and unpacks them.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct RecordCodec {
    class: Py<PyType>,
    size: usize,
    align: usize,
    fields: Vec<Field>,
    /// Whether unpacking may set the attributes directly: the class has no user-defined `__init__` or `__post_init__`.
    is_plain: bool,
}

/// A field as Python passes it: name, offset, NumPy name of its type, and for an array its dtype and shape.
type FieldDescription<'py> =
    (Bound<'py, PyString>, usize, String, Option<(Bound<'py, PyAny>, Bound<'py, PyTuple>)>);

#[pymethods]
impl RecordCodec {
    /// Creates a codec.
    ///
    /// Args:
    ///     class: The message class.
    ///     size: Size of a record, in bytes.
    ///     align: Alignment of a record, in bytes.
    ///     fields: ``(name, offset, number, (dtype, shape) | None)`` for each field.
    ///     plain: Whether the class has no user-defined ``__init__`` or ``__post_init__``.
    ///
    /// Raises:
    ///     ValueError: A number type is unknown, or a field exceeds the record.
    #[new]
    fn new(
        class: Bound<'_, PyType>,
        size: usize,
        align: usize,
        fields: Vec<FieldDescription<'_>>,
        plain: bool,
    ) -> PyResult<Self> {
        let field = |(name, offset, number, array): FieldDescription<'_>| {
            let kind = match array {
                Some((dtype, shape)) => {
                    let item: usize = dtype.getattr("itemsize")?.extract()?;
                    let counts: Vec<usize> = shape.extract()?;
                    let bytes = item * counts.iter().product::<usize>();
                    FieldKind::Array { dtype: dtype.unbind(), shape: shape.unbind(), bytes }
                }
                None => FieldKind::Scalar(
                    ScalarType::by_name(&number)
                        .ok_or_else(|| PyValueError::new_err(format!(
                            "creating a record codec: {number:?} is not a number type; use a NumPy scalar name such as 'int32'"
                        )))?,
                ),
            };
            let field = Field { name: name.unbind(), offset, kind };
            if field.end() > size {
                return Err(PyValueError::new_err(format!(
                    "creating a record codec: a field ends after the {size} bytes of the record"
                )));
            }
            Ok(field)
        };
        let fields = fields.into_iter().map(field).collect::<PyResult<_>>()?;
        Ok(Self { class: class.unbind(), size, align, fields, is_plain: plain })
    }

    /// Packs a message.
    ///
    /// Args:
    ///     message: The message.
    ///
    /// Returns:
    ///     The bytes of the record.
    ///
    /// Raises:
    ///     TypeValidationError: The message has another class.
    ///     MessageSerializationError: A field cannot hold its value; the error names the field.
    #[pyo3(name = "pack")]
    fn pack_bytes<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(message.py(), self.pack(message)?.as_slice()))
    }

    /// Unpacks a record.
    ///
    /// Args:
    ///     record: The bytes of the record.
    ///
    /// Returns:
    ///     The message.
    ///
    /// Raises:
    ///     ValueError: The size differs from that of a record.
    #[pyo3(name = "unpack")]
    fn unpack_bytes<'py>(&self, py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        if record.len() != self.size {
            let (size, len) = (self.size, record.len());
            return Err(PyValueError::new_err(format!(
                "unpacking a record: expected {size} bytes, got {len}"
            )));
        }
        self.unpack(py, record)
    }
}

impl Field {
    fn end(&self) -> usize {
        self.offset
            + match &self.kind {
                FieldKind::Scalar(ScalarType::Bool | ScalarType::I8 | ScalarType::U8) => 1,
                FieldKind::Scalar(ScalarType::I16 | ScalarType::U16) => 2,
                FieldKind::Scalar(ScalarType::I32 | ScalarType::U32 | ScalarType::F32) => 4,
                FieldKind::Scalar(ScalarType::I64 | ScalarType::U64 | ScalarType::F64) => 8,
                FieldKind::Array { bytes, .. } => *bytes,
            }
    }
}

impl RecordCodec {
    /// Size of a record, in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Size and alignment of a record, in bytes.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.size, self.align)
    }

    /// The message class.
    pub(super) fn class<'py>(&self, py: Python<'py>) -> &Bound<'py, PyType> {
        self.class.bind(py)
    }

    /// Packs a message into a record.
    ///
    /// # Errors
    ///
    /// `TypeValidationError` for an object of another class; `MessageSerializationError`, which names the field, for a value that its
    /// field cannot hold.
    #[inline]
    pub(super) fn pack(&self, message: &Bound<'_, PyAny>) -> PyResult<RecordBytes> {
        let py = message.py();
        let class = self.class.bind(py);
        if !message.get_type().is(class) && !message.is_instance(class)? {
            return Err(super::error::wrong_type(
                class,
                &message.get_type(),
                "message of a native ring kernel",
            ));
        }
        let mut record = RecordBytes::zeroed(self.size);
        let bytes = record.as_mut_slice();
        for field in &self.fields {
            let name = field.name.bind(py);
            let value = message.getattr(name)?;
            field.write(&value, &mut bytes[field.offset..]).map_err(|cause| {
                let text = format!("field '{name}': {}", cause.value(py));
                super::error::serialization_error(class, PyErr::from_type(cause.get_type(py), text))
            })?;
        }
        Ok(record)
    }

    /// Unpacks a record, whose size must be that of this codec.
    #[inline]
    pub(super) fn unpack<'py>(&self, py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class.bind(py);
        if !self.is_plain {
            let arguments = PyDict::new(py);
            for field in &self.fields {
                arguments.set_item(field.name.bind(py), field.read(py, &record[field.offset..])?)?;
            }
            return class.call((), Some(&arguments));
        }
        // SAFETY: a plain class is a heap type that inherits `object.__new__`, which allocates in the same way. The result is a new
        // reference or null with an error set.
        let message =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
        for field in &self.fields {
            let value = field.read(py, &record[field.offset..])?;
            // SAFETY: all three objects are live, and the thread is attached. The attribute takes its own reference to the value.
            let status = unsafe {
                ffi::PyObject_GenericSetAttr(message.as_ptr(), field.name.as_ptr(), value.as_ptr())
            };
            if status < 0 {
                return Err(PyErr::fetch(py));
            }
        }
        Ok(message)
    }
}

/// Writes the bytes of a number to the start of `target`.
macro_rules! write_number {
    ($target:ident, $value:expr) => {{
        let bytes = $value.to_ne_bytes();
        $target[..bytes.len()].copy_from_slice(&bytes);
    }};
}

/// Reads the number at the start of `source`.
macro_rules! read_number {
    ($source:ident, $ty:ty) => {{
        let mut bytes = [0; size_of::<$ty>()];
        bytes.copy_from_slice(&$source[..size_of::<$ty>()]);
        <$ty>::from_ne_bytes(bytes)
    }};
}

impl Field {
    /// Writes a value to the start of `target`, which is at least as long as the field.
    #[inline]
    fn write(&self, value: &Bound<'_, PyAny>, target: &mut [u8]) -> PyResult<()> {
        let number = match &self.kind {
            FieldKind::Scalar(number) => *number,
            FieldKind::Array { dtype, shape, bytes } => {
                return write_array(value, dtype, shape, &mut target[..*bytes]);
            }
        };
        match number {
            ScalarType::F64 => write_number!(target, value.extract::<f64>()?),
            ScalarType::F32 => write_number!(target, value.extract::<f64>()? as f32),
            ScalarType::I64 => write_number!(target, value.extract::<i64>()?),
            ScalarType::U64 => write_number!(target, value.extract::<u64>()?),
            ScalarType::Bool => target[0] = u8::from(bool_value(value)?),
            ScalarType::I8 => write_number!(target, narrow::<i8>(value, "int8")?),
            ScalarType::I16 => write_number!(target, narrow::<i16>(value, "int16")?),
            ScalarType::I32 => write_number!(target, narrow::<i32>(value, "int32")?),
            ScalarType::U8 => write_number!(target, narrow::<u8>(value, "uint8")?),
            ScalarType::U16 => write_number!(target, narrow::<u16>(value, "uint16")?),
            ScalarType::U32 => write_number!(target, narrow::<u32>(value, "uint32")?),
        }
        Ok(())
    }

    /// Reads the value at the start of `source`.
    #[inline]
    fn read<'py>(&self, py: Python<'py>, source: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let number = match &self.kind {
            FieldKind::Scalar(number) => *number,
            FieldKind::Array { dtype, shape, bytes } => {
                return read_array(py, dtype, shape, &source[..*bytes]);
            }
        };
        let Ok(value) = match number {
            ScalarType::F64 => return Ok(read_number!(source, f64).into_pyobject(py)?.into_any()),
            ScalarType::F32 => return Ok(f64::from(read_number!(source, f32)).into_pyobject(py)?.into_any()),
            ScalarType::Bool => return Ok((source[0] != 0).into_pyobject(py)?.to_owned().into_any()),
            ScalarType::I64 => read_number!(source, i64).into_pyobject(py),
            ScalarType::U64 => read_number!(source, u64).into_pyobject(py),
            ScalarType::I8 => i64::from(read_number!(source, i8)).into_pyobject(py),
            ScalarType::I16 => i64::from(read_number!(source, i16)).into_pyobject(py),
            ScalarType::I32 => i64::from(read_number!(source, i32)).into_pyobject(py),
            ScalarType::U8 => i64::from(read_number!(source, u8)).into_pyobject(py),
            ScalarType::U16 => i64::from(read_number!(source, u16)).into_pyobject(py),
            ScalarType::U32 => i64::from(read_number!(source, u32)).into_pyobject(py),
        };
        Ok(value.into_any())
    }
}

fn narrow<T: TryFrom<i64>>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T> {
    let number: i64 = value.extract()?;
    T::try_from(number)
        .map_err(|_| PyOverflowError::new_err(format!("{number} is outside the range of {name}")))
}

/// Extracts a `bool`. Rejects other objects with a truth value: a list in such a field is a mistake.
fn bool_value(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    match value.extract::<bool>() {
        Ok(value) => Ok(value),
        Err(_) => Err(PyTypeError::new_err(format!("expected a bool, got {}", value.repr()?))),
    }
}

/// A contiguous view of the bytes of an object, by the buffer protocol.
struct BufferView(ffi::Py_buffer);

impl BufferView {
    fn get(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let flags = if writable { ffi::PyBUF_SIMPLE | ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        let mut view = ffi::Py_buffer::new();
        // SAFETY: the object is live, the thread is attached, and `view` is writable. Dropping `Self` releases the view.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) } < 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self(view))
    }

    fn len(&self) -> usize {
        self.0.len.unsigned_abs()
    }
}

impl Drop for BufferView {
    fn drop(&mut self) {
        // SAFETY: `get` filled the view with `PyObject_GetBuffer` and nothing has released it. Functions of this file create and drop views
        // while attached.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) }
    }
}

/// Copies the bytes of an object with contiguous memory, such as a C-contiguous array.
pub(super) fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let view = BufferView::get(object, false)?;
    let mut bytes = vec![0; view.len()];
    // SAFETY: the view is valid for `view.len()` bytes until it is dropped, and `bytes` was allocated with that length.
    unsafe { std::ptr::copy_nonoverlapping(view.0.buf.cast::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
    Ok(bytes)
}

/// Overwrites the bytes of an object. The sizes must be equal.
pub(super) fn fill(object: &Bound<'_, PyAny>, bytes: &[u8]) -> PyResult<()> {
    let view = BufferView::get(object, true)?;
    if view.len() != bytes.len() {
        let (size, len) = (view.len(), bytes.len());
        return Err(PyValueError::new_err(format!("overwriting a buffer: it has {size} bytes, got {len}")));
    }
    // SAFETY: the view is writable and has `bytes.len()` bytes (checked above). `bytes` is not part of the object, whose memory no Rust
    // slice refers to.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), view.0.buf.cast::<u8>(), bytes.len()) };
    Ok(())
}

fn numpy_function<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    Ok(cell.get_or_try_init(py, || py.import("numpy")?.getattr(name).map(Bound::unbind))?.bind(py))
}

fn write_array(
    value: &Bound<'_, PyAny>,
    dtype: &Py<PyAny>,
    shape: &Py<PyTuple>,
    target: &mut [u8],
) -> PyResult<()> {
    static CONTIGUOUS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let array = numpy_function(py, &CONTIGUOUS, "ascontiguousarray")?.call1((value, dtype))?;
    let actual = array.getattr(intern!(py, "shape"))?;
    if !actual.eq(shape.bind(py))? {
        let expected = shape.bind(py);
        return Err(PyValueError::new_err(format!("expected an array of shape {expected}, got {actual}")));
    }
    let view = BufferView::get(&array, false)?;
    if view.len() != target.len() {
        let (expected, actual) = (target.len(), view.len());
        return Err(PyValueError::new_err(format!("expected an array of {expected} bytes, got {actual}")));
    }
    // SAFETY: the view is valid for `target.len()` bytes (checked above) until it is dropped. `target` is a Rust slice and not part of it.
    unsafe { std::ptr::copy_nonoverlapping(view.0.buf.cast::<u8>(), target.as_mut_ptr(), target.len()) };
    Ok(())
}

fn read_array<'py>(
    py: Python<'py>,
    dtype: &Py<PyAny>,
    shape: &Py<PyTuple>,
    source: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let array = numpy_function(py, &EMPTY, "empty")?.call1((shape, dtype))?;
    fill(&array, source)?;
    Ok(array)
}
