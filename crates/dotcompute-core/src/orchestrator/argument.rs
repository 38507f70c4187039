//! Arguments of one-shot kernels.

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

    /// Returns its name in Rust.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Returns its size in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        self.size
    }
}

/// An error of one argument.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// The argument does not have the type that the kernel expects.
    #[error("expected {takes}, got {given}")]
    TypeMismatch {
        /// What the kernel expects.
        takes: String,
        /// What the caller passed.
        given: String,
    },
    /// The buffer belongs to another device.
    #[error(
        "the buffer is on {buffer}, but the kernel runs on {kernel}; create the buffer with the memory of {kernel}"
    )]
    OtherDevice {
        /// The buffer's device.
        buffer: DeviceId,
        /// The kernel's device.
        kernel: DeviceId,
    },
    /// The buffer could not be copied to the device.
    #[error(transparent)]
    DeviceMemory(#[from] MemoryError),
}

/// An argument of a launch: a buffer or a value.
pub struct Argument<'a>(Kind<'a>);

enum Kind<'a> {
    Read(&'a mut dyn AnyBuffer),
    Write(&'a mut dyn AnyBuffer),
    Value(BoundValue),
}

impl<'a> Argument<'a> {
    /// Passes a buffer that the kernel reads. On `cuda` the kernel's parameter is a `const T*`.
    pub fn read<T: Plain>(buffer: &'a mut UnifiedBuffer<T>) -> Self {
        Self(Kind::Read(buffer))
    }

    /// Passes a buffer that the kernel reads and writes. On `cuda` the kernel's parameter is a `T*`.
    pub fn write<T: Plain>(buffer: &'a mut UnifiedBuffer<T>) -> Self {
        Self(Kind::Write(buffer))
    }

    /// Passes a value. On `cuda` the kernel's parameter is a `T`.
    pub fn value<T: Plain>(value: T) -> Self {
        Self(Kind::Value(BoundValue { element: Element::of::<T>(), bytes: bytes_of(&value).into() }))
    }

    /// Brings the argument up to date on the device, and adds the number of bytes copied to `copied`.
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

    /// Brings the device copy up to date; returns it, and the number of bytes copied.
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
    /// The device copy of a buffer.
    Buffer(BoundBuffer<'a>),
    /// A value.
    Value(BoundValue),
}

impl BoundArgument<'_> {
    /// Describes the argument, for errors.
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

/// The device copy of a buffer, up to date.
#[derive(Debug)]
pub struct BoundBuffer<'a> {
    address: u64,
    len: usize,
    element: Element,
    view: View<'a>,
}

/// The bytes of a device copy, if the host can access them.
#[derive(Debug)]
enum View<'a> {
    Read(Option<&'a [u8]>),
    Write(Option<&'a mut [u8]>),
}

impl BoundBuffer<'_> {
    /// Returns its address in the device's address space.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the type of its elements.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Returns whether the kernel may write to it.
    #[must_use]
    pub fn is_written(&self) -> bool {
        matches!(self.view, View::Write(_))
    }
}

/// A value passed to a kernel.
#[derive(Debug, Clone)]
pub struct BoundValue {
    element: Element,
    bytes: Box<[u8]>,
}

impl BoundValue {
    /// Returns its type.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The arguments of a kernel on the host, which takes them in order.
#[derive(Debug)]
pub struct Arguments<'a> {
    rest: std::vec::IntoIter<BoundArgument<'a>>,
    geometry: Geometry,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(arguments: Vec<BoundArgument<'a>>, geometry: Geometry) -> Self {
        Self { rest: arguments.into_iter(), geometry }
    }

    /// Returns the geometry of the launch.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Takes the next argument, a buffer to read.
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

    /// Takes the next argument, a buffer to read and write.
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

    /// Takes the next argument, a value.
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

    /// Returns the number of arguments not taken yet.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn next(&mut self, takes: impl Fn() -> String) -> Result<BoundArgument<'a>, ArgumentError> {
        let missing = || ArgumentError::TypeMismatch { takes: takes(), given: String::from("no argument") };
        self.rest.next().ok_or_else(missing)
    }
}
