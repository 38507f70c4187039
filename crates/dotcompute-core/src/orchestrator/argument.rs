//! What kernels are launched on.

use std::any::{TypeId, type_name};

use thiserror::Error;

use super::Geometry;
use crate::memory::{DeviceId, MemoryError, UnifiedBuffer};
use crate::message::record::{Plain, bytes_of, from_bytes};

/// The type of a value, or of a buffer's elements.
#[derive(Debug, Clone, Copy)]
pub struct Element {
    id: TypeId,
    name: &'static str,
    size: usize,
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Element {
    fn of<T: Plain>() -> Self {
        Self { id: TypeId::of::<T>(), name: type_name::<T>(), size: size_of::<T>() }
    }

    /// Its name in Rust.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        self.size
    }
}

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// It is not what the kernel takes there.
    #[error("the kernel takes {takes}, and was given {given}")]
    TypeMismatch {
        /// What it takes.
        takes: String,
        /// What was given.
        given: String,
    },
    /// The buffer is of another device.
    #[error(
        "the buffer is of {buffer}, and the kernel runs on {kernel}; make it with the memory of that device"
    )]
    OtherDevice {
        /// The buffer's device.
        buffer: DeviceId,
        /// The kernel's.
        kernel: DeviceId,
    },
    /// The buffer could not be brought to the device.
    #[error(transparent)]
    DeviceMemory(#[from] MemoryError),
}

/// Something that a kernel is launched on.
pub struct Argument<'a>(Kind<'a>);

enum Kind<'a> {
    Read(&'a mut dyn AnyBuffer),
    Write(&'a mut dyn AnyBuffer),
    Value(BoundValue),
}

impl<'a> Argument<'a> {
    /// A buffer that the kernel reads. On `cuda` it gets a `const T*`.
    pub fn read<T: Plain>(buffer: &'a mut UnifiedBuffer<T>) -> Self {
        Self(Kind::Read(buffer))
    }

    /// A buffer that the kernel reads and writes. On `cuda` it gets a `T*`.
    pub fn write<T: Plain>(buffer: &'a mut UnifiedBuffer<T>) -> Self {
        Self(Kind::Write(buffer))
    }

    /// A value. On `cuda` it gets a `T`.
    pub fn value<T: Plain>(value: T) -> Self {
        Self(Kind::Value(BoundValue { element: Element::of::<T>(), bytes: bytes_of(&value).into() }))
    }

    /// Brings it to the device; adds the bytes that were copied for it.
    pub(super) fn bind(self, device: DeviceId, copied: &mut u64) -> Result<BoundArgument<'a>, ArgumentError> {
        let (buffer, writes) = match self.0 {
            Kind::Value(value) => return Ok(BoundArgument::Value(value)),
            Kind::Read(buffer) => (buffer, false),
            Kind::Write(buffer) => (buffer, true),
        };
        if buffer.device() != device {
            return Err(ArgumentError::OtherDevice { buffer: buffer.device(), kernel: device });
        }
        let (buffer, bytes) = buffer.bind(writes)?;
        *copied += bytes;
        Ok(BoundArgument::Buffer(buffer))
    }
}

/// A buffer of elements of any type.
trait AnyBuffer {
    fn device(&self) -> DeviceId;

    /// Brings it up to date on the device; gives it, and how many bytes were copied for that.
    fn bind(&mut self, writes: bool) -> Result<(BoundBuffer<'_>, u64), MemoryError>;
}

impl<T: Plain> AnyBuffer for UnifiedBuffer<T> {
    fn device(&self) -> DeviceId {
        self.device_id()
    }

    fn bind(&mut self, writes: bool) -> Result<(BoundBuffer<'_>, u64), MemoryError> {
        let (element, before) = (Element::of::<T>(), self.transfers().to_device_bytes);
        let slice = self.device()?;
        let (address, len) = (slice.address(), slice.len());
        let copied = self.transfers().to_device_bytes - before;
        let view = if writes {
            View::Write(self.device_mut()?.into_bytes())
        } else {
            View::Read(self.device()?.into_bytes())
        };
        Ok((BoundBuffer { address, len, element, view }, copied))
    }
}

/// An argument on the device.
#[derive(Debug)]
pub enum BoundArgument<'a> {
    /// A buffer's half there.
    Buffer(BoundBuffer<'a>),
    /// A value.
    Value(BoundValue),
}

impl BoundArgument<'_> {
    /// What it is, for errors.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Buffer(buffer) => {
                let access = if buffer.is_written() { "write" } else { "read" };
                format!("a buffer of {} {} to {access}", buffer.len, buffer.element.name)
            }
            Self::Value(value) => format!("a value of {}", value.element.name),
        }
    }
}

/// The device's half of a buffer, up to date.
#[derive(Debug)]
pub struct BoundBuffer<'a> {
    address: u64,
    len: usize,
    element: Element,
    view: View<'a>,
}

/// Its bytes, where the host can look at them.
#[derive(Debug)]
enum View<'a> {
    Read(Option<&'a [u8]>),
    Write(Option<&'a mut [u8]>),
}

impl BoundBuffer<'_> {
    /// Where it is, as the device sees it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of its elements.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Whether the kernel may write to it.
    #[must_use]
    pub fn is_written(&self) -> bool {
        matches!(self.view, View::Write(_))
    }
}

/// A value.
#[derive(Debug, Clone)]
pub struct BoundValue {
    element: Element,
    bytes: Box<[u8]>,
}

impl BoundValue {
    /// Its type.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The arguments of a kernel on the host, to be taken in their order.
#[derive(Debug)]
pub struct Arguments<'a> {
    rest: std::vec::IntoIter<BoundArgument<'a>>,
    geometry: Geometry,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(arguments: Vec<BoundArgument<'a>>, geometry: Geometry) -> Self {
        Self { rest: arguments.into_iter(), geometry }
    }

    /// How many threads were asked for.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Takes the next argument: a buffer, to read.
    ///
    /// # Errors
    ///
    /// [`ArgumentError::TypeMismatch`] if it is something else.
    pub fn read<T: Plain>(&mut self) -> Result<&'a [T], ArgumentError> {
        let takes = || format!("a buffer of {}", type_name::<T>());
        let argument = self.next(takes)?;
        let given = argument.describe();
        match argument {
            BoundArgument::Buffer(BoundBuffer { element, view, .. }) if element == Element::of::<T>() => {
                let bytes: Option<&'a [u8]> = match view {
                    View::Read(bytes) => bytes,
                    View::Write(bytes) => bytes.map(|bytes| &*bytes),
                };
                bytes.and_then(crate::memory::elements)
            }
            _ => None,
        }
        .ok_or_else(|| ArgumentError::TypeMismatch { takes: takes(), given })
    }

    /// Takes the next argument: a buffer, to read and write.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn write<T: Plain>(&mut self) -> Result<&'a mut [T], ArgumentError> {
        let takes = || format!("a buffer of {} to write", type_name::<T>());
        let argument = self.next(takes)?;
        let given = argument.describe();
        match argument {
            BoundArgument::Buffer(BoundBuffer { element, view: View::Write(Some(bytes)), .. })
                if element == Element::of::<T>() =>
            {
                crate::memory::elements_mut(bytes)
            }
            _ => None,
        }
        .ok_or_else(|| ArgumentError::TypeMismatch { takes: takes(), given })
    }

    /// Takes the next argument: a value.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn value<T: Plain>(&mut self) -> Result<T, ArgumentError> {
        let takes = || format!("a value of {}", type_name::<T>());
        let argument = self.next(takes)?;
        match &argument {
            BoundArgument::Value(value) if value.element == Element::of::<T>() => from_bytes(&value.bytes),
            _ => None,
        }
        .ok_or_else(|| ArgumentError::TypeMismatch { takes: takes(), given: argument.describe() })
    }

    /// How many have not been taken.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn next(&mut self, takes: impl Fn() -> String) -> Result<BoundArgument<'a>, ArgumentError> {
        let missing = || ArgumentError::TypeMismatch { takes: takes(), given: String::from("nothing more") };
        self.rest.next().ok_or_else(missing)
    }
}
