//! Messages as plain old data: the layout that devices read, and the equivalent C struct.
//!
//! A message is copied to a device as bytes. `#[message(record)]` on a `#[repr(C)]` struct checks at compile time that the host and devices
//! interpret those bytes in the same way. [`RecordMessage::c_struct`] returns the C struct for device code.
//!
//! ```
//! use dotcompute_core::message::Message;
//! use dotcompute_core::message::record::RecordMessage;
//!
//! #[derive(Message, Clone, Copy)]
//! #[message(record)]
//! #[repr(C)]
//! struct Tick {
//!     time: u64,
//!     price: [f32; 2],
//! }
//!
//! assert_eq!(Tick::LAYOUT.size, 16);
//! assert_eq!(Tick::LAYOUT.fields[1].offset, 8);
//! assert!(Tick::c_struct().contains("    float price[2]; /* offset 8 */\n"));
//! ```
//!
//! | Rust | C |
//! | --- | --- |
//! | `u8` `u16` `u32` `u64` | `uint8_t` `uint16_t` `uint32_t` `uint64_t` |
//! | `i8` `i16` `i32` `i64` | `int8_t` `int16_t` `int32_t` `int64_t` |
//! | `f32` `f64` | `float` `double` |
//! | `[T; N]`, `[[T; N]; M]` | `T name[N]`, `T name[M][N]` |
//! | another record message | its struct |
//!
//! Other types are excluded on purpose:
//!
//! - `bool`, `char`, enums and `NonZero` types: a device may write a bit pattern that is invalid for them. Use `u8` or `u32`.
//! - `usize`: its size differs between machines. Use `u64`.
//! - Pointers and references: an address of one side is invalid on the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

pub use dotcompute_ring::record::{Record, bytes_of, from_bytes};

pub use super::record_bytes::RecordBytes;

use super::Message;

/// A plain old data type: it can be a field of a record.
///
/// Implemented for the types in the [module's table](self), and by `#[derive(Message)] #[message(record)]`.
///
/// # Safety
///
/// [`TYPE`](Self::TYPE) describes the type's layout in C.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a valid field of a record message",
    label = "not plain old data",
    note = "a record's fields are `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, arrays of these, and other record messages",
    note = "use `u8` for `bool`, `u32` for `char` or an enum, `u64` for `usize`, `[u8; N]` for text"
)]
pub unsafe trait Plain: Record {
    /// The type in C.
    const TYPE: PlainType;
}

/// A message that devices can read: `#[derive(Message)] #[message(record)] #[repr(C)]`.
pub trait RecordMessage: Message + Plain {
    /// Layout of its fields.
    const LAYOUT: RecordLayout;

    /// Returns the C struct as source that C, C++ and CUDA compilers (including NVRTC) accept.
    ///
    /// It contains static assertions that size, alignment and offsets are those of Rust. Include guards permit two messages with the same
    /// nested record in one translation unit.
    fn c_struct() -> String {
        Self::LAYOUT.c_struct()
    }
}

/// A message that is copied to a device as bytes: every [`RecordMessage`], and [`RecordBytes`].
pub trait DeviceRecord: Message {
    /// Returns its bytes. Their number is the size in the layout with which the ring kernel was launched.
    fn as_record_bytes(&self) -> &[u8];

    /// Creates a message from its bytes; `None` if their number is not the message's size.
    fn from_record_bytes(bytes: &[u8]) -> Option<Self>
    where
        Self: Sized;
}

impl<T: RecordMessage> DeviceRecord for T {
    fn as_record_bytes(&self) -> &[u8] {
        bytes_of(self)
    }

    fn from_record_bytes(bytes: &[u8]) -> Option<Self> {
        from_bytes(bytes)
    }
}

impl DeviceRecord for RecordBytes {
    fn as_record_bytes(&self) -> &[u8] {
        self.as_slice()
    }

    fn from_record_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_slice(bytes))
    }
}

/// Layout of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    /// The struct's name in C: the message's type name, with `_` for each character that C identifiers do not allow.
    pub name: &'static str,
    /// Its size in bytes, without padding bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its fields, ordered by offset.
    pub fields: &'static [FieldLayout],
}

/// Layout of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name, in Rust and in C.
    pub name: &'static str,
    /// Its offset in bytes from the start of the record.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its type in C.
    pub ty: PlainType,
}

/// The type of a field in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainType {
    /// A number, with the name of its C type.
    Scalar(&'static str),
    /// An array.
    Array {
        /// Number of elements.
        len: usize,
        /// Type of an element.
        element: &'static Self,
    },
    /// Another record.
    Record(&'static RecordLayout),
}

impl PlainType {
    /// Returns the name of the C type. For an array, this is the name of the innermost element type.
    pub const fn c_type(&self) -> &'static str {
        match self {
            Self::Scalar(name) => name,
            Self::Array { element, .. } => element.c_type(),
            Self::Record(layout) => layout.name,
        }
    }

    /// Returns the array's dimensions, outermost first; empty if the type is not an array.
    pub fn dims(&self) -> Vec<usize> {
        let mut dims = Vec::new();
        let mut ty = self;
        while let Self::Array { len, element } = ty {
            dims.push(*len);
            ty = element;
        }
        dims
    }

    /// Returns the layout of a record or of an array of records.
    const fn record(&self) -> Option<&'static RecordLayout> {
        match self {
            Self::Scalar(_) => None,
            Self::Array { element, .. } => element.record(),
            Self::Record(layout) => Some(layout),
        }
    }
}

impl RecordLayout {
    /// Creates the layout of a record at run time, from its size and alignment. On the device it is a struct `name` with one field,
    /// `words`.
    ///
    /// The layout is leaked, a few dozen bytes: create it once per message type. Returns `None` if the alignment is not 1, 2, 4 or 8, or if
    /// the size is zero or not a multiple of the alignment.
    ///
    /// ```
    /// use dotcompute_core::message::record::RecordLayout;
    ///
    /// let layout = RecordLayout::opaque("Reading", 12, 4).expect("three words of four bytes");
    /// assert!(layout.c_struct().contains("    uint32_t words[3]; /* offset 0 */\n"));
    /// assert_eq!(RecordLayout::opaque("Reading", 12, 8), None);
    /// ```
    #[must_use]
    pub fn opaque(name: &str, size: usize, align: usize) -> Option<Self> {
        let word = match align {
            1 => &u8::TYPE,
            2 => &u16::TYPE,
            4 => &u32::TYPE,
            8 => &u64::TYPE,
            _ => return None,
        };
        if size == 0 || !size.is_multiple_of(align) {
            return None;
        }
        let ty = PlainType::Array { len: size / align, element: word };
        let fields = Box::leak(Box::new([FieldLayout { name: "words", offset: 0, size, align, ty }]));
        Some(Self { name: Box::leak(Box::from(name)), size, align, fields })
    }

    /// Returns a name that two of these records, or records nested in them, share although they differ. In C both would be the same struct.
    ///
    /// ```
    /// use dotcompute_core::message::record::RecordLayout;
    ///
    /// let [small, large] = [8, 16].map(|size| RecordLayout::opaque("Order", size, 8).unwrap());
    /// assert_eq!(RecordLayout::ambiguous_name([&small, &small]), None);
    /// assert_eq!(RecordLayout::ambiguous_name([&small, &large]), Some("Order"));
    /// ```
    #[must_use]
    pub fn ambiguous_name<'a>(records: impl IntoIterator<Item = &'a Self>) -> Option<&'static str> {
        let mut known: BTreeMap<&'static str, &Self> = BTreeMap::new();
        let mut open: Vec<&Self> = records.into_iter().collect();
        while let Some(record) = open.pop() {
            match known.insert(record.name, record) {
                Some(other) if other != record => return Some(record.name),
                Some(_) => {}
                None => open.extend(record.fields.iter().filter_map(|field| field.ty.record())),
            }
        }
        None
    }

    /// Returns the C struct, preceded by the structs of its nested records. See [`RecordMessage::c_struct`].
    pub fn c_struct(&self) -> String {
        let mut text = String::from(C_PRELUDE);
        self.write_struct(&mut text);
        text
    }

    fn write_struct(&self, text: &mut String) {
        for nested in self.fields.iter().filter_map(|field| field.ty.record()) {
            nested.write_struct(text);
        }
        let Self { name, size, align, .. } = self;
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\n#ifndef DOTCOMPUTE_RECORD_{name}\n#define DOTCOMPUTE_RECORD_{name}");
        let _ = writeln!(text, "typedef struct {name} {{");
        // `repr(align)` exceeds the alignment of all fields; in C, `alignas` on the first field has the same effect.
        let natural = self.fields.iter().map(|field| field.align).max().unwrap_or(1);
        let mut prefix = if *align > natural { format!("alignas({align}) ") } else { String::new() };
        for FieldLayout { name, offset, ty, .. } in self.fields {
            let c_type = ty.c_type();
            let dims: String = ty.dims().iter().map(|len| format!("[{len}]")).collect();
            let _ = writeln!(text, "    {prefix}{c_type} {name}{dims}; /* offset {offset} */");
            prefix.clear();
        }
        let _ = writeln!(text, "}} {name};");
        let _ =
            writeln!(text, "static_assert(sizeof({name}) == {size}, \"{name}: size differs from Rust\");");
        let _ = writeln!(
            text,
            "static_assert(alignof({name}) == {align}, \"{name}: alignment differs from Rust\");"
        );
        for FieldLayout { name: field, offset, .. } in self.fields {
            let _ = writeln!(
                text,
                "static_assert(DOTCOMPUTE_OFFSETOF({name}, {field}) == {offset}, \"{name}.{field}: offset differs from Rust\");"
            );
        }
        text.push_str("#endif\n");
    }
}

/// Definitions that the structs need. NVRTC has neither `<stdint.h>` nor `offsetof`; C has `static_assert` and `alignas` in headers.
const C_PRELUDE: &str = "\
#ifndef DOTCOMPUTE_RECORD_PRELUDE
#define DOTCOMPUTE_RECORD_PRELUDE
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define DOTCOMPUTE_OFFSETOF(type, field) __INTADDR__(&(((type *)0)->field))
#else
#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <assert.h>
#include <stdalign.h>
#endif
#define DOTCOMPUTE_OFFSETOF(type, field) offsetof(type, field)
#endif
#endif
";

macro_rules! scalars {
    ($($ty:ty => $c:literal)*) => {$(
        // SAFETY: the C type has the same size and representation.
        unsafe impl Plain for $ty {
            const TYPE: PlainType = PlainType::Scalar($c);
        }
    )*};
}

scalars! {
    u8 => "uint8_t"
    u16 => "uint16_t"
    u32 => "uint32_t"
    u64 => "uint64_t"
    i8 => "int8_t"
    i16 => "int16_t"
    i32 => "int32_t"
    i64 => "int64_t"
    f32 => "float"
    f64 => "double"
}

// SAFETY: in Rust and in C, an array is a sequence of its elements without padding between them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {
    const TYPE: PlainType = PlainType::Array { len: N, element: &T::TYPE };
}
