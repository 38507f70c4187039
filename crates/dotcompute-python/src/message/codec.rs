//! What is known of one message class: its fields, and how bytes name it.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use super::plain::PlainTypes;

/// A field of a message class.
pub(super) struct Field {
    pub(super) name: Py<PyString>,
    pub(super) key: PyBackedStr,
    /// The value if the bytes lack this field. `None` if the class has no default, or a default factory.
    pub(super) default: Option<Py<PyAny>>,
    /// Whether the constructor has a parameter for it.
    pub(super) init: bool,
    /// The plain types that its annotation names.
    pub(super) declared: PlainTypes,
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
    pub(super) class: Py<PyType>,
    pub(super) fields: Vec<Field>,
    /// Whether [`id::MessageIdField`] implements the ids of these messages.
    pub(super) lazy_id: bool,
    /// Whether decoding may set the attributes directly: the class has no user-defined `__init__` or `__post_init__`.
    pub(super) is_plain: bool,
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

    /// Checks that the bytes are a message of this class.
    pub(super) fn check_type(&self, name: &str, exact: bool, has_same_fields: bool) -> PyResult<()> {
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

    pub(super) fn position(&self, key: &str, expected: usize) -> Option<usize> {
        match self.fields.get(expected) {
            Some(field) if *field.key == *key => Some(expected),
            _ => self.fields.iter().position(|field| *field.key == *key),
        }
    }
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
