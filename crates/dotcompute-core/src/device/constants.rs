//! Constants of Rust handlers: rustc evaluates them, and their values become part of the device code.

use std::fmt::Write as _;

/// A constant that device code can use: a number, `bool`, or an array of these.
#[diagnostic::on_unimplemented(
    message = "a constant of type `{Self}` has no device code",
    label = "not a number",
    note = "use constants of number types, `bool`, and arrays of these"
)]
pub trait DeviceConstant {
    /// Type of the innermost elements in C++, and the unsigned integer of the same size.
    const ELEMENT: [&'static str; 2];

    /// Appends the lengths of an array, outermost first.
    fn lengths(_lengths: &mut Vec<usize>) {}

    /// Appends the bits of its value, as integers in C++. Not every compiler has literals for infinities.
    fn write(&self, text: &mut String);
}

macro_rules! numbers {
    ($($ty:ty => $name:literal $word:literal $bits:expr;)*) => {$(
        impl DeviceConstant for $ty {
            const ELEMENT: [&'static str; 2] = [$name, $word];

            fn write(&self, text: &mut String) {
                let bits: fn($ty) -> u64 = $bits;
                // Writing to a `String` cannot fail.
                let _ = write!(text, "{}ull", bits(*self));
            }
        }
    )*};
}

numbers! {
    bool => "bool" "uint8_t" u64::from;
    u8 => "uint8_t" "uint8_t" u64::from;
    u16 => "uint16_t" "uint16_t" u64::from;
    u32 => "uint32_t" "uint32_t" u64::from;
    u64 => "uint64_t" "uint64_t" |value| value;
    usize => "uint64_t" "uint64_t" |value| value as u64;
    i8 => "int8_t" "uint8_t" |value| value as u8 as u64;
    i16 => "int16_t" "uint16_t" |value| value as u16 as u64;
    i32 => "int32_t" "uint32_t" |value| value as u32 as u64;
    i64 => "int64_t" "uint64_t" |value| value as u64;
    isize => "int64_t" "uint64_t" |value| value as u64;
    f32 => "float" "uint32_t" |value| value.to_bits().into();
    f64 => "double" "uint64_t" f64::to_bits;
}

impl<T: DeviceConstant, const N: usize> DeviceConstant for [T; N] {
    const ELEMENT: [&'static str; 2] = T::ELEMENT;

    fn lengths(lengths: &mut Vec<usize>) {
        lengths.push(N);
        T::lengths(lengths);
    }

    fn write(&self, text: &mut String) {
        text.push('{');
        for element in self {
            element.write(text);
            text.push_str(", ");
        }
        text.push('}');
    }
}
