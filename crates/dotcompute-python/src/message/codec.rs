//! One message class and its bytes: a map of its fields and `__type__`.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyType};
use pyo3::{ffi, intern};
use rmp::encode as mp;

use super::decode::{self, Reader};
use super::{encode, id, python};

/// A field of a message class.
struct Field {
    name: Py<PyString>,
    text: PyBackedStr,
    /// The value of a message that was written without this field. `None` where the class says nothing, or makes one each time.
    default: Option<Py<PyAny>>,
    /// Whether the constructor takes it.
    init: bool,
}

/// How messages of one class become bytes and come back. Made by the class's first message that needs it.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct MessageCodec {
    class: Py<PyType>,
    fields: Vec<Field>,
    /// Whether the ids of these messages are kept by [`id::MessageIdField`].
    lazy_id: bool,
    /// Whether a message can be put together field by field: its class has no `__init__` or `__post_init__` of the user's.
    plain: bool,
}

#[pymethods]
impl MessageCodec {
    /// Takes the class, its fields as `(name, has_default, default, init)`, and what its author left as it was.
    #[new]
    fn new(
        class: Bound<'_, PyType>,
        fields: Vec<(Bound<'_, PyString>, bool, Bound<'_, PyAny>, bool)>,
        lazy_id: bool,
        plain: bool,
    ) -> PyResult<Self> {
        let field =
            |(name, has_default, default, init): (Bound<'_, PyString>, bool, Bound<'_, PyAny>, bool)| {
                Ok(Field {
                    text: name.extract()?,
                    name: name.unbind(),
                    default: has_default.then(|| default.unbind()),
                    init,
                })
            };
        let fields = fields.into_iter().map(field).collect::<PyResult<_>>()?;
        Ok(MessageCodec { class: class.unbind(), fields, lazy_id, plain })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.class)?;
        self.fields
            .iter()
            .filter_map(|field| field.default.as_ref())
            .try_for_each(|default| visit.call(default))
    }
}

impl MessageCodec {
    fn encode(&self, message: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        let py = message.py();
        encode::written(mp::write_map_len(
            out,
            u32::try_from(self.fields.len() + 1).map_err(|_| PyTypeError::new_err("too many fields"))?,
        ))?;
        for field in &self.fields {
            encode::text(out, &field.text)?;
            if self.lazy_id
                && *field.text == *"message_id"
                && let Some(id) = id::id_bytes(message)?
            {
                encode::uuid(out, &id)?;
                continue;
            }
            let value = message.getattr(field.name.bind(py))?;
            encode::value(out, &value, 0).map_err(|error| in_field(py, &field.text, error))?;
        }
        encode::text(out, "__type__")?;
        encode::text(out, self.class.bind(py).name()?.to_str()?)
    }

    /// The message in `entries`, which are values by field; the id may be bytes of the wire.
    fn build<'py>(&self, py: Python<'py>, found: Found<'py>) -> PyResult<Bound<'py, PyAny>> {
        let complete = self.fields.iter().zip(&found.values).all(|(field, value)| {
            value.is_some() || field.default.is_some() || (self.lazy_id && *field.text == *"message_id")
        });
        // Defaults that are made each time, and complaints about fields that are missing, are the class's own business.
        if self.plain && complete { self.assemble(py, found) } else { self.call(py, found) }
    }

    fn assemble<'py>(&self, py: Python<'py>, found: Found<'py>) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class.bind(py);
        // SAFETY: a plain class is an ordinary heap type that inherits `object.__new__`, which allocates just so.
        let message =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
        for (field, value) in self.fields.iter().zip(found.values) {
            match (value, &field.default) {
                (Some(value), _) => {
                    check_priority(&field.text, &value)?;
                    message_set(&message, field, &value)?;
                }
                (None, Some(default)) => message_set(&message, field, default.bind(py))?,
                // The id, which follows.
                (None, None) => {}
            }
        }
        if let Some(id) = found.id {
            id::set_id_bytes(&message, &id)?;
        }
        Ok(message)
    }

    fn call<'py>(&self, py: Python<'py>, found: Found<'py>) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyDict::new(py);
        let mut others = Vec::new();
        for (field, value) in self.fields.iter().zip(found.values) {
            match value {
                Some(value) if field.init => arguments.set_item(field.name.bind(py), value)?,
                Some(value) => others.push((field, value)),
                None => {}
            }
        }
        if let Some(id) = found.id {
            arguments.set_item(intern!(py, "message_id"), python::uuid_from_bytes(py, &id)?)?;
        }
        let message = self.class.bind(py).call((), Some(&arguments))?;
        // What the constructor does not take, it has set to something; the message that was written had this.
        others.iter().try_for_each(|(field, value)| message_set(&message, field, value))?;
        Ok(message)
    }

    fn decode<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let mut reader = Reader::new(bytes);
        let mut found = Found { values: Vec::with_capacity(self.fields.len()), id: None };
        found.values.resize_with(self.fields.len(), || None);
        // Whoever wrote the message wrote its fields in their order, so the next one is nearly always the next.
        let mut expected = 0;
        for _ in 0..reader.map_len()? {
            let Some(key) = reader.text()? else {
                return Err(reader.error("a field's name is not a text"));
            };
            match self.position(key, expected) {
                Some(index) => {
                    expected = index + 1;
                    self.read_field(py, &mut reader, index, &mut found)?;
                }
                // `__type__`, or a field that this class does not have (any more).
                None => drop(decode::value(py, &mut reader, 0)?),
            }
        }
        if !reader.is_empty() {
            return Err(reader.error("bytes follow the message"));
        }
        self.build(py, found)
    }

    fn position(&self, key: &str, expected: usize) -> Option<usize> {
        match self.fields.get(expected) {
            Some(field) if *field.text == *key => Some(expected),
            _ => self.fields.iter().position(|field| *field.text == *key),
        }
    }

    fn read_field<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        index: usize,
        found: &mut Found<'py>,
    ) -> PyResult<()> {
        let name = &self.fields[index].text;
        let is_id = **name == *"message_id";
        if is_id && self.lazy_id {
            found.id = reader.uuid();
            if found.id.is_some() {
                return Ok(());
            }
        }
        let mut value = decode::value(py, reader, 0).map_err(|error| in_field(py, name, error))?;
        if is_id || **name == *"correlation_id" {
            value = as_id(value)?;
        }
        found.values[index] = Some(value);
        Ok(())
    }
}

/// What was read: a value for each field that was there, and the id as it came.
struct Found<'py> {
    values: Vec<Option<Bound<'py, PyAny>>>,
    id: Option<[u8; 16]>,
}

fn message_set(message: &Bound<'_, PyAny>, field: &Field, value: &Bound<'_, PyAny>) -> PyResult<()> {
    python::generic_set(message, field.name.bind(message.py()), value)
}

/// The header's priority is checked by `__post_init__`, which a message that is put together here does not run.
fn check_priority(name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if name == "priority" && !value.extract::<i64>().is_ok_and(|priority| (0..=255).contains(&priority)) {
        return Err(PyValueError::new_err(format!("Priority must be 0-255, got {}", value.repr()?)));
    }
    Ok(())
}

/// Older bytes have ids as texts or plain bytes.
fn as_id(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = value.py();
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        let bytes: [u8; 16] =
            bytes.as_bytes().try_into().map_err(|_| PyValueError::new_err("an id has 16 bytes"))?;
        return python::uuid_from_bytes(py, &bytes);
    }
    if value.is_exact_instance_of::<PyString>() { python::uuid_class(py)?.call1((value,)) } else { Ok(value) }
}

/// Says in which field it went wrong. The error keeps its type, if that is one of those that are made of a text.
fn in_field(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let class = error.get_type(py);
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let text = format!("field '{name}': {}", error.value(py));
    let plain =
        [py.get_type::<PyTypeError>(), py.get_type::<PyValueError>(), py.get_type::<PyOverflowError>()];
    let outer = match plain.iter().any(|plain| plain.is(&class)) {
        true => PyErr::from_type(class, text),
        false => PyValueError::new_err(text),
    };
    outer.set_cause(py, Some(error));
    outer
}

/// The codec of a class, made and kept by the class itself.
fn codec_of<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, MessageCodec>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = class.py();
    if let Ok(kept) = class.getattr(intern!(py, "_codec"))
        && let Ok(codec) = kept.cast_into_exact::<MessageCodec>()
        // A subclass finds its parent's.
        && codec.get().class.is(class)
    {
        return Ok(codec);
    }
    let made = MAKE.import(py, "pydotcompute.ring_kernels.message", "_make_codec")?.call1((class,))?;
    Ok(made.cast_into::<MessageCodec>()?)
}

fn error_class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("pydotcompute.exceptions")?.getattr(name)
}

/// Wraps what went wrong in the package's exception, with the class and the cause.
fn wrapped(class: &Bound<'_, PyType>, name: &str, cause: PyErr) -> PyErr {
    let py = class.py();
    if !cause.is_instance_of::<PyException>(py) {
        return cause;
    }
    let made = error_class(py, name).and_then(|error| error.call1((class, cause.value(py))));
    match made {
        Ok(error) => {
            let error = PyErr::from_value(error);
            error.set_cause(py, Some(cause));
            error
        }
        Err(error) => error,
    }
}

/// The bytes of a message.
///
/// # Errors
///
/// `MessageSerializationError`, which names the field, for a value that has no bytes.
#[pyfunction]
pub(super) fn encode_message<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    thread_local! {
        /// The last message's memory, for the next.
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    /// A larger one is given back.
    const KEPT: usize = 1 << 20;
    let class = message.get_type();
    let mut out = SCRATCH.take();
    out.clear();
    let encoded = codec_of(&class).and_then(|codec| codec.get().encode(message, &mut out));
    let bytes = encoded.map(|()| PyBytes::new(message.py(), &out));
    if out.capacity() <= KEPT {
        SCRATCH.replace(out);
    }
    bytes.map_err(|error| wrapped(&class, "MessageSerializationError", error))
}

/// The message of this class that was written as these bytes.
///
/// # Errors
///
/// `MessageDeserializationError` for bytes that are none, lack a field, or hold a value that the class refuses.
#[pyfunction]
pub(super) fn decode_message<'py>(
    class: &Bound<'py, PyType>,
    data: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let decoded = codec_of(class).and_then(|codec| {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return codec.get().decode(class.py(), bytes.as_bytes());
        }
        let copy = PyBuffer::<u8>::get(data)?.to_vec(class.py())?;
        codec.get().decode(class.py(), &copy)
    });
    decoded.map_err(|error| wrapped(class, "MessageDeserializationError", error))
}

/// The name that the bytes of a message give as their class's, if they give one.
///
/// # Errors
///
/// `ValueError` for bytes that are not a map of named fields.
#[pyfunction]
pub(super) fn message_type_name<'py>(data: &Bound<'py, PyBytes>) -> PyResult<Option<String>> {
    let mut reader = Reader::new(data.as_bytes());
    let mut name = None;
    for _ in 0..reader.map_len()? {
        let key = reader.text()?;
        if key == Some("__type__") {
            name = reader.text()?.map(str::to_owned);
        } else if key.is_none() {
            return Err(reader.error("a field's name is not a text"));
        } else {
            decode::value(data.py(), &mut reader, 0)?;
        }
    }
    Ok(name)
}
