//! Messages of Python as records: attributes are read straight into their places, and answers are put together without their `__init__`.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};

use dotcompute_core::message::record::RecordBytes;

/// A number as it lies in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
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

impl Number {
    /// By NumPy's name for it.
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

/// What a field holds.
enum Kind {
    Number(Number),
    /// A NumPy array of this type and shape.
    Array {
        dtype: Py<PyAny>,
        shape: Py<PyTuple>,
        bytes: usize,
    },
}

struct Field {
    name: Py<PyString>,
    offset: usize,
    kind: Kind,
}

/// How messages of one class become records and come back.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct RecordCodec {
    class: Py<PyType>,
    size: usize,
    align: usize,
    fields: Vec<Field>,
    /// Whether a message can be put together field by field: its class has no `__init__` or `__post_init__` of the user's.
    plain: bool,
}

/// A field as Python describes it: name, offset, NumPy's name of its type, and the type and shape of an array.
type Description<'py> =
    (Bound<'py, PyString>, usize, String, Option<(Bound<'py, PyAny>, Bound<'py, PyTuple>)>);

#[pymethods]
impl RecordCodec {
    /// Takes the class, the record's size and alignment, its fields as `(name, offset, number, (dtype, shape) | None)`, and whether the class is plain.
    #[new]
    fn new(
        class: Bound<'_, PyType>,
        size: usize,
        align: usize,
        fields: Vec<Description<'_>>,
        plain: bool,
    ) -> PyResult<Self> {
        let field = |(name, offset, number, array): Description<'_>| {
            let kind = match array {
                Some((dtype, shape)) => {
                    let item: usize = dtype.getattr("itemsize")?.extract()?;
                    let counts: Vec<usize> = shape.extract()?;
                    let bytes = item * counts.iter().product::<usize>();
                    Kind::Array { dtype: dtype.unbind(), shape: shape.unbind(), bytes }
                }
                None => Kind::Number(
                    Number::by_name(&number)
                        .ok_or_else(|| PyValueError::new_err(format!("no number is called {number:?}")))?,
                ),
            };
            let field = Field { name: name.unbind(), offset, kind };
            if field.end() > size {
                return Err(PyValueError::new_err(format!("a field ends beyond the record's {size} bytes")));
            }
            Ok(field)
        };
        let fields = fields.into_iter().map(field).collect::<PyResult<_>>()?;
        Ok(Self { class: class.unbind(), size, align, fields, plain })
    }

    /// The record of a message, as bytes.
    #[pyo3(name = "pack")]
    fn pack_bytes<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(message.py(), self.pack(message)?.as_slice()))
    }

    /// The message of a record.
    #[pyo3(name = "unpack")]
    fn unpack_bytes<'py>(&self, py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        if record.len() != self.size {
            let (size, len) = (self.size, record.len());
            return Err(PyValueError::new_err(format!("the record has {size} bytes, and not {len}")));
        }
        self.unpack(py, record)
    }
}

impl Field {
    fn end(&self) -> usize {
        self.offset
            + match &self.kind {
                Kind::Number(Number::Bool | Number::I8 | Number::U8) => 1,
                Kind::Number(Number::I16 | Number::U16) => 2,
                Kind::Number(Number::I32 | Number::U32 | Number::F32) => 4,
                Kind::Number(Number::I64 | Number::U64 | Number::F64) => 8,
                Kind::Array { bytes, .. } => *bytes,
            }
    }
}

impl RecordCodec {
    /// Bytes of a record.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Size and alignment of a record.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.size, self.align)
    }

    /// The class of the messages.
    pub(super) fn class<'py>(&self, py: Python<'py>) -> &Bound<'py, PyType> {
        self.class.bind(py)
    }

    /// The record of a message.
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
                super::error::unpackable(class, PyErr::from_type(cause.get_type(py), text))
            })?;
        }
        Ok(record)
    }

    /// The message of a record, which has the size that this codec was made for.
    #[inline]
    pub(super) fn unpack<'py>(&self, py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class.bind(py);
        if !self.plain {
            let arguments = PyDict::new(py);
            for field in &self.fields {
                arguments.set_item(field.name.bind(py), field.read(py, &record[field.offset..])?)?;
            }
            return class.call((), Some(&arguments));
        }
        // SAFETY: a plain class is an ordinary heap type that inherits `object.__new__`, which allocates just so.
        let message =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
        for field in &self.fields {
            let value = field.read(py, &record[field.offset..])?;
            // SAFETY: all are live objects and the interpreter is held; the attribute takes a reference of its own.
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

/// Puts a number's bytes at the start of `place`.
macro_rules! put {
    ($place:ident, $value:expr) => {{
        let bytes = $value.to_ne_bytes();
        $place[..bytes.len()].copy_from_slice(&bytes);
    }};
}

/// The number at the start of `place`.
macro_rules! take {
    ($place:ident, $ty:ty) => {{
        let mut bytes = [0; size_of::<$ty>()];
        bytes.copy_from_slice(&$place[..size_of::<$ty>()]);
        <$ty>::from_ne_bytes(bytes)
    }};
}

impl Field {
    /// Writes a value to the start of `place`, which is at least as long as the field.
    #[inline]
    fn write(&self, value: &Bound<'_, PyAny>, place: &mut [u8]) -> PyResult<()> {
        let number = match &self.kind {
            Kind::Number(number) => *number,
            Kind::Array { dtype, shape, bytes } => {
                return write_array(value, dtype, shape, &mut place[..*bytes]);
            }
        };
        match number {
            Number::F64 => put!(place, value.extract::<f64>()?),
            Number::F32 => put!(place, value.extract::<f64>()? as f32),
            Number::I64 => put!(place, value.extract::<i64>()?),
            Number::U64 => put!(place, value.extract::<u64>()?),
            Number::Bool => place[0] = u8::from(truth(value)?),
            Number::I8 => put!(place, narrow::<i8>(value, "int8")?),
            Number::I16 => put!(place, narrow::<i16>(value, "int16")?),
            Number::I32 => put!(place, narrow::<i32>(value, "int32")?),
            Number::U8 => put!(place, narrow::<u8>(value, "uint8")?),
            Number::U16 => put!(place, narrow::<u16>(value, "uint16")?),
            Number::U32 => put!(place, narrow::<u32>(value, "uint32")?),
        }
        Ok(())
    }

    /// The value at the start of `place`.
    #[inline]
    fn read<'py>(&self, py: Python<'py>, place: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let number = match &self.kind {
            Kind::Number(number) => *number,
            Kind::Array { dtype, shape, bytes } => return read_array(py, dtype, shape, &place[..*bytes]),
        };
        let Ok(value) = match number {
            Number::F64 => return Ok(take!(place, f64).into_pyobject(py)?.into_any()),
            Number::F32 => return Ok(f64::from(take!(place, f32)).into_pyobject(py)?.into_any()),
            Number::Bool => return Ok((place[0] != 0).into_pyobject(py)?.to_owned().into_any()),
            Number::I64 => take!(place, i64).into_pyobject(py),
            Number::U64 => take!(place, u64).into_pyobject(py),
            Number::I8 => i64::from(take!(place, i8)).into_pyobject(py),
            Number::I16 => i64::from(take!(place, i16)).into_pyobject(py),
            Number::I32 => i64::from(take!(place, i32)).into_pyobject(py),
            Number::U8 => i64::from(take!(place, u8)).into_pyobject(py),
            Number::U16 => i64::from(take!(place, u16)).into_pyobject(py),
            Number::U32 => i64::from(take!(place, u32)).into_pyobject(py),
        };
        Ok(value.into_any())
    }
}

fn narrow<T: TryFrom<i64>>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T> {
    let number: i64 = value.extract()?;
    T::try_from(number).map_err(|_| PyOverflowError::new_err(format!("{number} is no {name}")))
}

/// A truth value, and not whatever has one: a list in such a field is a mistake.
fn truth(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    match value.extract::<bool>() {
        Ok(truth) => Ok(truth),
        Err(_) => Err(PyTypeError::new_err(format!("{} is no bool", value.repr()?))),
    }
}

/// A view of an object's bytes.
struct View(ffi::Py_buffer);

impl View {
    fn get(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let flags = if writable { ffi::PyBUF_SIMPLE | ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        let mut view = ffi::Py_buffer::new();
        // SAFETY: the object is live, the interpreter is held, and the view is released when dropped.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) } < 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self(view))
    }

    fn len(&self) -> usize {
        self.0.len.unsigned_abs()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: it was filled by `PyObject_GetBuffer`, and every view is made and dropped with the interpreter held.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) }
    }
}

/// The bytes of an object that has them in one piece, such as a contiguous array.
pub(super) fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let view = View::get(object, false)?;
    let mut bytes = vec![0; view.len()];
    // SAFETY: the view is of so many bytes, and valid as long as it is held; the copy is of the same length.
    unsafe { std::ptr::copy_nonoverlapping(view.0.buf.cast::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
    Ok(bytes)
}

/// Overwrites the bytes of an object, which are as many.
pub(super) fn fill(object: &Bound<'_, PyAny>, bytes: &[u8]) -> PyResult<()> {
    let view = View::get(object, true)?;
    if view.len() != bytes.len() {
        let (has, wants) = (view.len(), bytes.len());
        return Err(PyValueError::new_err(format!(
            "it has room for {has} bytes, and {wants} are to go there"
        )));
    }
    // SAFETY: the view is writable and of so many bytes; the source is a Rust slice and not part of it.
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
    place: &mut [u8],
) -> PyResult<()> {
    static CONTIGUOUS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let array = numpy_function(py, &CONTIGUOUS, "ascontiguousarray")?.call1((value, dtype))?;
    let has = array.getattr(intern!(py, "shape"))?;
    if !has.eq(shape.bind(py))? {
        let wants = shape.bind(py);
        return Err(PyValueError::new_err(format!("its shape is {has}, and that of the field is {wants}")));
    }
    let view = View::get(&array, false)?;
    if view.len() != place.len() {
        return Err(PyValueError::new_err("the array's bytes are not as many as the field's"));
    }
    // SAFETY: the view is of so many bytes, and valid while it is held; the record is not part of it.
    unsafe { std::ptr::copy_nonoverlapping(view.0.buf.cast::<u8>(), place.as_mut_ptr(), place.len()) };
    Ok(())
}

fn read_array<'py>(
    py: Python<'py>,
    dtype: &Py<PyAny>,
    shape: &Py<PyTuple>,
    place: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let array = numpy_function(py, &EMPTY, "empty")?.call1((shape, dtype))?;
    fill(&array, place)?;
    Ok(array)
}
