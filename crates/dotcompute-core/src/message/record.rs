//! Messages as plain old data: the layout that devices read, and the same struct in C.
//!
//! A message crosses to a device as its bytes. `#[message(record)]` on a `#[repr(C)]` struct checks at compile time that
//! those bytes mean the same on both sides, and [`RecordMessage::c_struct`] writes the struct for the other one.
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
//! | in Rust | in C |
//! | --- | --- |
//! | `u8` `u16` `u32` `u64` | `uint8_t` `uint16_t` `uint32_t` `uint64_t` |
//! | `i8` `i16` `i32` `i64` | `int8_t` `int16_t` `int32_t` `int64_t` |
//! | `f32` `f64` | `float` `double` |
//! | `[T; N]`, `[[T; N]; M]` | `T name[N]`, `T name[M][N]` |
//! | another record message | its struct |
//!
//! What is missing is missing on purpose: `bool`, `char`, enums and `NonZero` types, because a device may write a byte
//! that is no value of theirs (use `u8` or `u32`); `usize`, because its size differs between machines (use `u64`);
//! pointers and references, because an address means nothing on the other side.

use std::fmt::Write as _;

pub use dotcompute_ring::record::{Record, bytes_of, from_bytes};

pub use super::record_bytes::RecordBytes;

use super::Message;

/// A value whose bytes are all there is to it: it can stand in a record.
///
/// Implemented for the types in the [module's table](self), and by `#[derive(Message)] #[message(record)]`.
///
/// # Safety
///
/// [`TYPE`](Self::TYPE) describes the type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a record message",
    label = "not plain old data",
    note = "a record's fields are `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, arrays of these, and other record messages",
    note = "use `u8` for `bool`, `u32` for `char` or an enum, `u64` for `usize`, `[u8; N]` for text"
)]
pub unsafe trait Plain: Record {
    /// What the type is in C.
    const TYPE: PlainType;
}

/// A message that devices can read: `#[derive(Message)] #[message(record)] #[repr(C)]`.
pub trait RecordMessage: Message + Plain {
    /// Where its fields lie.
    const LAYOUT: RecordLayout;

    /// The struct in C, for a C, C++ or CUDA compiler (NVRTC too). It can be compiled as it is.
    ///
    /// Static assertions in it compare size, alignment and offsets with what Rust computed. Include guards make it
    /// harmless to compile two messages that share a nested record.
    fn c_struct() -> String {
        Self::LAYOUT.c_struct()
    }
}

/// A message that crosses to a device as its bytes: every [`RecordMessage`], and [`RecordBytes`].
pub trait DeviceRecord: Message {
    /// Its bytes, as many as the layout says that its ring kernel was launched with.
    fn as_record_bytes(&self) -> &[u8];

    /// The message that these bytes are; none if they are fewer or more than it has.
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

/// Where a record's fields lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    /// The struct's name in C: the message's type name, with `_` for every character that C does not allow in a name.
    pub name: &'static str,
    /// Its size in bytes; there are no padding bytes among them.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its fields, in the order of their offsets.
    pub fields: &'static [FieldLayout],
}

/// Where one field lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name, in Rust and in C.
    pub name: &'static str,
    /// How many bytes from the record's start it begins.
    pub offset: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// What it is in C.
    pub ty: PlainType,
}

/// What a field is in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainType {
    /// A number, with its C type's name.
    Scalar(&'static str),
    /// An array.
    Array {
        /// How many elements.
        len: usize,
        /// What each is.
        element: &'static Self,
    },
    /// Another record.
    Record(&'static RecordLayout),
}

impl PlainType {
    /// The name of the C type: for an array, that of its innermost elements.
    pub const fn c_type(&self) -> &'static str {
        match self {
            Self::Scalar(name) => name,
            Self::Array { element, .. } => element.c_type(),
            Self::Record(layout) => layout.name,
        }
    }

    /// The array's dimensions, outermost first; empty for what is not an array.
    pub fn dims(&self) -> Vec<usize> {
        let mut dims = Vec::new();
        let mut ty = self;
        while let Self::Array { len, element } = ty {
            dims.push(*len);
            ty = element;
        }
        dims
    }

    /// The record that this is, or that it is an array of.
    const fn record(&self) -> Option<&'static RecordLayout> {
        match self {
            Self::Scalar(_) => None,
            Self::Array { element, .. } => element.record(),
            Self::Record(layout) => Some(layout),
        }
    }
}

impl RecordLayout {
    /// The layout of a record of which only size and alignment matter, made at run time: on the device it is a struct `name` with the one
    /// field `words`. It lives as long as the program, a few dozen bytes: make it once for a kind of message.
    ///
    /// None if the alignment is not 1, 2, 4 or 8, or the size no multiple of it other than zero.
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

    /// The struct in C, after the structs of the records nested in it. See [`RecordMessage::c_struct`].
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
        // An alignment beyond that of the fields was asked for; C takes it on the first field.
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

/// What the structs need: NVRTC has neither `<stdint.h>` nor `offsetof`, C has `static_assert` and `alignas` in headers.
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
        // SAFETY: the C type has the same width and kind.
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

// SAFETY: an array in C too is its elements, one after another with nothing between.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {
    const TYPE: PlainType = PlainType::Array { len: N, element: &T::TYPE };
}
