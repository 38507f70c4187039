//! Serialization of one message class: a map of its fields and `__type__`.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyType};
use pyo3::{ffi, intern};
use rmp::encode as mp;

use super::decode::{self, Reader};
use super::errors::{in_field, wrapped};
use super::plain::{Place, PlainTypes};
use super::{encode, id, python};

/// A field of a message class.
struct Field {
    name: Py<PyString>,
    key: PyBackedStr,
    /// The value if the bytes lack this field. `None` if the class has no default, or a default factory.
    default: Option<Py<PyAny>>,
    /// Whether the constructor has a parameter for it.
    init: bool,
    /// The plain types that its annotation names.
    declared: PlainTypes,
}

/// What Python passes for a field: name, whether it has a default, default, whether the constructor takes it, declared plain types.
type FieldParts<'py> = (Bound<'py, PyString>, bool, Bound<'py, PyAny>, bool, u16);

/// How the bytes name a class.
struct Names {
    bare: String,
    qualified: String,
    /// Whether another class of this process has the same bare name. Then the bytes have the qualified one.
    is_shared: bool,
    /// Distinguishes the class from others with the same bare name, where the transport carries it.
    mark: u32,
}

/// Encodes and decodes messages of one class. Created by the first message that needs it.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct MessageCodec {
    class: Py<PyType>,
    fields: Vec<Field>,
    /// Whether [`id::MessageIdField`] implements the ids of these messages.
    lazy_id: bool,
    /// Whether decoding may set the attributes directly: the class has no user-defined `__init__` or `__post_init__`.
    is_plain: bool,
    /// Whether this is the base class, which reads the header of any message.
    is_base: bool,
    /// Whether the class has the `serialize` of the base class.
    is_standard: bool,
    names: Names,
}

#[pymethods]
impl MessageCodec {
    /// Creates a codec.
    ///
    /// Args:
    ///     class: The message class.
    ///     fields: ``(name, has_default, default, init, declared)`` for each field.
    ///     names: ``(qualified, is_shared, mark)``: how bytes name the class.
    ///     lazy_id: Whether ``MessageIdField`` implements ``message_id``.
    ///     plain: Whether the class has no user-defined ``__init__`` or ``__post_init__``.
    ///     base: Whether this is the base class of all messages.
    ///     standard: Whether the class has the ``serialize`` of the base class.
    #[new]
    fn new(
        class: Bound<'_, PyType>,
        fields: Vec<FieldParts<'_>>,
        names: (String, bool, u32),
        lazy_id: bool,
        plain: bool,
        base: bool,
        standard: bool,
    ) -> PyResult<Self> {
        let field = |(name, has_default, default, init, declared): FieldParts<'_>| {
            Ok(Field {
                key: name.extract()?,
                name: name.unbind(),
                default: has_default.then(|| default.unbind()),
                init,
                declared: PlainTypes::new(declared),
            })
        };
        let (qualified, is_shared, mark) = names;
        Ok(MessageCodec {
            fields: fields.into_iter().map(field).collect::<PyResult<_>>()?,
            names: Names { bare: class.name()?.to_str()?.to_owned(), qualified, is_shared, mark },
            class: class.unbind(),
            lazy_id,
            is_plain: plain,
            is_base: base,
            is_standard: standard,
        })
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
    /// The name that the bytes carry.
    pub(super) fn type_name(&self) -> &str {
        if self.names.is_shared { &self.names.qualified } else { &self.names.bare }
    }

    pub(super) fn is_standard(&self) -> bool {
        self.is_standard
    }

    fn encode(&self, message: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        self.encode_map(message, out, 0, 1)?;
        encode::string(out, "__type__")?;
        encode::string(out, self.type_name())
    }

    /// Appends a map of the fields, whose values are at `depth`.
    pub(super) fn encode_fields(
        &self,
        message: &Bound<'_, PyAny>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> PyResult<()> {
        self.encode_map(message, out, depth, 0)
    }

    /// Appends the fields and the header of a map that has `others` more entries.
    fn encode_map(
        &self,
        message: &Bound<'_, PyAny>,
        out: &mut Vec<u8>,
        depth: usize,
        others: usize,
    ) -> PyResult<()> {
        let py = message.py();
        encode::written(mp::write_map_len(
            out,
            u32::try_from(self.fields.len() + others)
                .map_err(|_| PyTypeError::new_err("the message class has too many fields"))?,
        ))?;
        for field in &self.fields {
            encode::string(out, &field.key)?;
            if self.lazy_id
                && *field.key == *"message_id"
                && let Some(id) = id::id_bytes(message)?
            {
                encode::uuid(out, &id)?;
                continue;
            }
            let value = message.getattr(field.name.bind(py))?;
            encode::value(out, &value, Place { depth, declared: field.declared })
                .map_err(|error| in_field(py, &field.key, error))?;
        }
        Ok(())
    }

    /// Creates a message from decoded values.
    fn build<'py>(&self, py: Python<'py>, decoded: DecodedFields<'py>) -> PyResult<Bound<'py, PyAny>> {
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

    fn decode<'py>(&self, py: Python<'py>, bytes: &[u8], exact: bool) -> PyResult<Bound<'py, PyAny>> {
        let mut reader = Reader::new(bytes);
        let message = self.decode_map(py, &mut reader, 0, exact)?;
        if reader.is_empty() { Ok(message) } else { Err(reader.error("unexpected bytes after the value")) }
    }

    /// Reads a map of the fields, whose values are at `depth`.
    pub(super) fn decode_fields<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.decode_map(py, reader, depth, false)
    }

    /// Reads a map of the fields and `__type__`. `exact`: whether it must have exactly the fields of this class.
    fn decode_map<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        depth: usize,
        exact: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut decoded = DecodedFields { values: Vec::with_capacity(self.fields.len()), id: None };
        decoded.values.resize_with(self.fields.len(), || None);
        let mut type_name = None;
        let mut unknown = 0;
        // Fields are encoded in order, so the key is nearly always that of the next field.
        let mut expected = 0;
        for _ in 0..reader.map_len()? {
            let Some(key) = reader.string()? else {
                return Err(reader.error("a field name is not a string"));
            };
            match self.position(key, expected) {
                Some(index) => {
                    expected = index + 1;
                    self.read_field(py, reader, index, depth, &mut decoded)?;
                }
                None if key == "__type__" => match reader.string()? {
                    Some(name) => type_name = Some(name),
                    None => reader.skip()?,
                },
                // A field that this class does not have.
                None => {
                    unknown += 1;
                    drop(decode::value(py, reader, depth)?);
                }
            }
        }
        if let Some(name) = type_name {
            let missing = decoded.values.iter().filter(|value| value.is_none()).count();
            let has_same_fields = unknown == 0 && missing == usize::from(decoded.id.is_some());
            self.check_type(name, exact, has_same_fields)?;
        }
        self.build(py, decoded)
    }

    /// Checks that the bytes are a message of this class.
    fn check_type(&self, name: &str, exact: bool, has_same_fields: bool) -> PyResult<()> {
        let Names { bare, qualified, is_shared, .. } = &self.names;
        let is_named = name == qualified || name == bare;
        // The bare name of several classes is accepted with exactly the fields of this one.
        let must_have_same_fields = exact || (*is_shared && name == bare);
        if self.is_base || (is_named && (has_same_fields || !must_have_same_fields)) {
            return Ok(());
        }
        let problem = if is_named {
            format!(
                "the bytes name the class '{name}', but their fields are not those of {qualified}: they may be of another class with this name"
            )
        } else {
            format!(
                "the bytes are a message of the class '{name}', not of {qualified}; call the deserialize of that class, or deserialize_message"
            )
        };
        Err(PyTypeError::new_err(problem))
    }

    fn position(&self, key: &str, expected: usize) -> Option<usize> {
        match self.fields.get(expected) {
            Some(field) if *field.key == *key => Some(expected),
            _ => self.fields.iter().position(|field| *field.key == *key),
        }
    }

    fn read_field<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        index: usize,
        depth: usize,
        decoded: &mut DecodedFields<'py>,
    ) -> PyResult<()> {
        let name = &self.fields[index].key;
        let is_id = **name == *"message_id";
        if is_id && self.lazy_id {
            decoded.id = reader.uuid();
            if decoded.id.is_some() {
                return Ok(());
            }
        }
        let mut value = decode::value(py, reader, depth).map_err(|error| in_field(py, name, error))?;
        if is_id || **name == *"correlation_id" {
            value = as_id(value)?;
        }
        decoded.values[index] = Some(value);
        Ok(())
    }
}

/// The decoded values by field, and the id as bytes.
struct DecodedFields<'py> {
    values: Vec<Option<Bound<'py, PyAny>>>,
    id: Option<[u8; 16]>,
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
fn as_id(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = value.py();
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        let bytes: [u8; 16] =
            bytes.as_bytes().try_into().map_err(|_| PyValueError::new_err("an id does not have 16 bytes"))?;
        return python::uuid_from_bytes(py, &bytes);
    }
    if value.is_exact_instance_of::<PyString>() { python::uuid_class(py)?.call1((value,)) } else { Ok(value) }
}

/// Returns the codec that a class stores in `_codec`.
fn stored_codec<'py>(class: &Bound<'py, PyType>) -> Option<Bound<'py, MessageCodec>> {
    let codec = class.getattr(intern!(class.py(), "_codec")).ok()?.cast_into_exact::<MessageCodec>().ok()?;
    // A subclass inherits the attribute of its parent.
    codec.get().class.is(class).then_some(codec)
}

/// Returns the codec of a message class. The first call creates it.
pub(super) fn codec_of<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, MessageCodec>> {
    static CREATE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Some(codec) = stored_codec(class) {
        return Ok(codec);
    }
    let create = CREATE.import(class.py(), "pydotcompute.ring_kernels.message", "_make_codec")?;
    Ok(create.call1((class,))?.cast_into::<MessageCodec>()?)
}

/// Returns the codec of a class if it is a message class.
pub(super) fn codec_of_message<'py>(
    class: &Bound<'py, PyType>,
) -> PyResult<Option<Bound<'py, MessageCodec>>> {
    let py = class.py();
    if let Some(codec) = stored_codec(class) {
        return Ok(Some(codec));
    }
    let is_message = class.hasattr(intern!(py, "with_correlation"))?
        && class.hasattr(intern!(py, "deserialize"))?
        && class.hasattr(intern!(py, "__dataclass_fields__"))?;
    if is_message { codec_of(class).map(Some) } else { Ok(None) }
}

/// Returns the mark of the class of a message, for a transport that carries it beside the bytes.
pub(crate) fn class_mark(object: &Bound<'_, PyAny>) -> u32 {
    /// As for a class of the main module: the name does not tell where the class is defined.
    const UNKNOWN: u32 = 1;
    stored_codec(&object.get_type()).map_or(UNKNOWN, |codec| codec.get().names.mark)
}

/// Encodes a message.
///
/// Args:
///     message: The message.
///
/// Returns:
///     The bytes.
///
/// Raises:
///     MessageSerializationError: A value cannot be encoded; the error names the field.
#[pyfunction]
pub(super) fn encode_message<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    thread_local! {
        /// Buffer of the last message, reused for the next.
        static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    /// A larger buffer is freed.
    const MAX_SCRATCH: usize = 1 << 20;
    let class = message.get_type();
    let mut out = SCRATCH.take();
    out.clear();
    let encoded = codec_of(&class).and_then(|codec| codec.get().encode(message, &mut out));
    let bytes = encoded.map(|()| PyBytes::new(message.py(), &out));
    if out.capacity() <= MAX_SCRATCH {
        SCRATCH.replace(out);
    }
    bytes.map_err(|error| wrapped(&class, "MessageSerializationError", error))
}

/// Decodes a message.
///
/// Args:
///     class: The message class.
///     data: The bytes, or another object with the buffer protocol.
///     exact: Whether the bytes must have exactly the fields of the class. By default others are ignored, and missing ones get defaults.
///
/// Returns:
///     The message.
///
/// Raises:
///     MessageDeserializationError: The bytes are not a message, lack a field, or have a value that the class rejects.
#[pyfunction]
#[pyo3(signature = (class, data, exact = false))]
pub(super) fn decode_message<'py>(
    class: &Bound<'py, PyType>,
    data: &Bound<'py, PyAny>,
    exact: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let decoded = codec_of(class).and_then(|codec| {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return codec.get().decode(class.py(), bytes.as_bytes(), exact);
        }
        let copy = PyBuffer::<u8>::get(data)?.to_vec(class.py())?;
        codec.get().decode(class.py(), &copy, exact)
    });
    decoded.map_err(|error| wrapped(class, "MessageDeserializationError", error))
}

/// Reads the name of the class from the bytes of a message.
///
/// Args:
///     data: The bytes.
///
/// Returns:
///     The name, or None without ``__type__``.
///
/// Raises:
///     ValueError: The bytes are not a map of named fields.
#[pyfunction]
pub(super) fn message_type_name<'py>(data: &Bound<'py, PyBytes>) -> PyResult<Option<String>> {
    let mut reader = Reader::new(data.as_bytes());
    let mut name = None;
    for _ in 0..reader.map_len()? {
        let key = reader.string()?;
        if key == Some("__type__") {
            name = reader.string()?.map(str::to_owned);
        } else if key.is_none() {
            return Err(reader.error("a field name is not a string"));
        } else {
            reader.skip()?;
        }
    }
    Ok(name)
}
