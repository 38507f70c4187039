//! The operations of device functions on the CPU. `#[device_handler]` replaces operators by these functions, whatever the build profile.
//!
//! A failure is a panic whose text starts with the user's file and line. `rust.cuh` of `dotcompute-cuda` has the same functions for devices.

use std::cell::Cell;
use std::panic::{Location, resume_unwind};

use crate::user_code::catch_panic;

/// A number or `bool`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a number nor `bool`, so this operation has no device code",
    label = "not a number",
    note = "use fields of structs and elements of arrays; write `*name` for the value of a reference"
)]
pub trait Scalar: Copy + PartialOrd + sealed::Sealed {
    /// The value itself, also of a reference.
    #[must_use]
    fn device_value(self) -> Self {
        self
    }
}

/// A type with arithmetic. A result of `None` is an overflow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a number, so this operation has no device code",
    label = "not a number",
    note = "use fields of structs and elements of arrays; write `*name` for the value of a reference"
)]
pub trait Number: Scalar {
    /// Sum, wrapped, and whether it overflowed. So are the following.
    #[allow(missing_docs)]
    fn overflowing_add(self, other: Self) -> (Self, bool);
    #[allow(missing_docs)]
    fn overflowing_sub(self, other: Self) -> (Self, bool);
    #[allow(missing_docs)]
    fn overflowing_mul(self, other: Self) -> (Self, bool);
    #[allow(missing_docs)]
    fn overflowing_neg(self) -> (Self, bool);
    #[allow(missing_docs)]
    fn overflowing_abs(self) -> (Self, bool);
    /// Quotient and remainder with their overflows; `None` for an integer divisor of zero.
    fn checked_div_rem(self, divisor: Self) -> Option<((Self, bool), (Self, bool))>;
    /// Minimum; the other one if one is not a number.
    fn min(self, other: Self) -> Self;
    /// Maximum; the other one if one is not a number.
    fn max(self, other: Self) -> Self;
    /// -1, 0 or 1; for floats the sign, or not a number.
    fn signum(self) -> Self;
}

/// An integer. Its methods are those of the same name of each integer type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an integer, so this operation has no device code",
    label = "not an integer"
)]
#[allow(missing_docs)]
pub trait Integer: Number + Bits {
    /// Type of a difference.
    type Unsigned;
    fn shift(self, amount: i128, is_left: bool) -> (Self, bool);
    fn wide(self) -> i128;
    fn wrapping_add(self, other: Self) -> Self;
    fn wrapping_sub(self, other: Self) -> Self;
    fn wrapping_mul(self, other: Self) -> Self;
    fn saturating_add(self, other: Self) -> Self;
    fn saturating_sub(self, other: Self) -> Self;
    fn abs_diff(self, other: Self) -> Self::Unsigned;
    fn wrapping_neg(self) -> Self;
    fn wrapping_shl(self, bits: u32) -> Self;
    fn wrapping_shr(self, bits: u32) -> Self;
    fn rotate_left(self, bits: u32) -> Self;
    fn rotate_right(self, bits: u32) -> Self;
    fn count_ones(self) -> u32;
    fn count_zeros(self) -> u32;
    fn leading_zeros(self) -> u32;
    fn trailing_zeros(self) -> u32;
}

/// A float. Its methods are those of the same name of each float type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not `f32` or `f64`, so this operation has no device code",
    label = "not a float"
)]
#[allow(missing_docs)]
pub trait Float: Number {
    /// Type of its bits.
    type Bits;
    fn to_bits(self) -> Self::Bits;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn trunc(self) -> Self;
    fn round(self) -> Self;
    fn recip(self) -> Self;
    fn copysign(self, sign: Self) -> Self;
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn powi(self, exponent: i32) -> Self;
    fn is_nan(self) -> bool;
    fn is_finite(self) -> bool;
    fn is_infinite(self) -> bool;
    fn is_sign_negative(self) -> bool;
    fn is_sign_positive(self) -> bool;
}

/// A type with bit operations: an integer or `bool`.
#[diagnostic::on_unimplemented(message = "`{Self}` is neither an integer nor `bool`", label = "has no bits")]
pub trait Bits:
    Scalar
    + std::ops::BitAnd<Output = Self>
    + std::ops::BitOr<Output = Self>
    + std::ops::BitXor<Output = Self>
    + std::ops::Not<Output = Self>
{
}

/// An array or a slice.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an array, so it has no device code",
    label = "not an array"
)]
pub trait Elements {
    /// Type of its elements.
    type Element;
    #[allow(missing_docs)]
    fn elements(&self) -> &[Self::Element];
}

/// An array or a slice that can be changed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an array that can be changed",
    label = "not an array"
)]
pub trait ElementsMut: Elements {
    #[allow(missing_docs)]
    fn elements_mut(&mut self) -> &mut [Self::Element];
}

impl<T, const N: usize> Elements for [T; N] {
    type Element = T;
    fn elements(&self) -> &[T] {
        self
    }
}

impl<T, const N: usize> ElementsMut for [T; N] {
    fn elements_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T> Elements for [T] {
    type Element = T;
    fn elements(&self) -> &[T] {
        self
    }
}

impl<T> ElementsMut for [T] {
    fn elements_mut(&mut self) -> &mut [T] {
        self
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Fails the message.
#[cold]
#[track_caller]
pub(crate) fn fail(text: &str) -> ! {
    let at = Location::caller();
    let text = format!("{}:{}: {text}", at.file(), at.line());
    if IS_HANDLING.get() {
        // The caller gets the text. The panic hook would report it as a defect of the program.
        resume_unwind(Box::new(text))
    }
    panic!("{text}")
}

thread_local! {
    /// Whether a ring kernel runs the device function, and not a test or another program.
    static IS_HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// Calls a device handler. A fault or a panic becomes an error with its text.
pub(crate) fn handle<T>(handler: impl FnOnce() -> T) -> Result<T, String> {
    let outer = IS_HANDLING.replace(true);
    let result = catch_panic(handler);
    IS_HANDLING.set(outer);
    result
}

/// Implements a method by the type's own method of that name.
macro_rules! forward {
    ($ty:ident $name:ident($($argument:ident: $argument_ty:ty),*) -> $result:ty) => {
        #[inline]
        fn $name(self, $($argument: $argument_ty),*) -> $result {
            <$ty>::$name(self, $($argument),*)
        }
    };
}

macro_rules! integers {
    ($($ty:ident $unsigned:ident)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Scalar for $ty {}
        impl Bits for $ty {}
        impl Number for $ty {
            fn overflowing_add(self, other: Self) -> (Self, bool) {
                self.overflowing_add(other)
            }
            fn overflowing_sub(self, other: Self) -> (Self, bool) {
                self.overflowing_sub(other)
            }
            fn overflowing_mul(self, other: Self) -> (Self, bool) {
                self.overflowing_mul(other)
            }
            fn overflowing_neg(self) -> (Self, bool) {
                self.overflowing_neg()
            }
            #[allow(unused_comparisons)]
            fn overflowing_abs(self) -> (Self, bool) {
                if self < 0 { self.overflowing_neg() } else { (self, false) }
            }
            fn checked_div_rem(self, divisor: Self) -> Option<((Self, bool), (Self, bool))> {
                (divisor != 0).then(|| (self.overflowing_div(divisor), self.overflowing_rem(divisor)))
            }
            fn min(self, other: Self) -> Self {
                Ord::min(self, other)
            }
            fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }
            #[allow(unused_comparisons)]
            fn signum(self) -> Self {
                if self < 0 { (0 as Self).wrapping_sub(1) } else { Self::from(self > 0) }
            }
        }
        impl Integer for $ty {
            type Unsigned = $unsigned;
            fn shift(self, amount: i128, is_left: bool) -> (Self, bool) {
                let bits = amount as u32;
                let shifted = if is_left { self.wrapping_shl(bits) } else { self.wrapping_shr(bits) };
                (shifted, amount < 0 || amount >= i128::from(Self::BITS))
            }
            fn wide(self) -> i128 {
                self as i128
            }
            forward!($ty wrapping_add(other: Self) -> Self);
            forward!($ty wrapping_sub(other: Self) -> Self);
            forward!($ty wrapping_mul(other: Self) -> Self);
            forward!($ty saturating_add(other: Self) -> Self);
            forward!($ty saturating_sub(other: Self) -> Self);
            forward!($ty abs_diff(other: Self) -> $unsigned);
            forward!($ty wrapping_neg() -> Self);
            forward!($ty wrapping_shl(bits: u32) -> Self);
            forward!($ty wrapping_shr(bits: u32) -> Self);
            forward!($ty rotate_left(bits: u32) -> Self);
            forward!($ty rotate_right(bits: u32) -> Self);
            forward!($ty count_ones() -> u32);
            forward!($ty count_zeros() -> u32);
            forward!($ty leading_zeros() -> u32);
            forward!($ty trailing_zeros() -> u32);
        }
    )*};
}

integers! {
    u8 u8  u16 u16  u32 u32  u64 u64  usize usize
    i8 u8  i16 u16  i32 u32  i64 u64  isize usize
}

macro_rules! floats {
    ($($ty:ident $bits:ident)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Scalar for $ty {}
        impl Number for $ty {
            fn overflowing_add(self, other: Self) -> (Self, bool) {
                (self + other, false)
            }
            fn overflowing_sub(self, other: Self) -> (Self, bool) {
                (self - other, false)
            }
            fn overflowing_mul(self, other: Self) -> (Self, bool) {
                (self * other, false)
            }
            fn overflowing_neg(self) -> (Self, bool) {
                (-self, false)
            }
            fn overflowing_abs(self) -> (Self, bool) {
                (self.abs(), false)
            }
            fn checked_div_rem(self, divisor: Self) -> Option<((Self, bool), (Self, bool))> {
                Some(((self / divisor, false), (self % divisor, false)))
            }
            fn min(self, other: Self) -> Self {
                if self < other || other.is_nan() { self } else { other }
            }
            fn max(self, other: Self) -> Self {
                if self > other || other.is_nan() { self } else { other }
            }
            fn signum(self) -> Self {
                if self.is_nan() { self } else { (1.0 as Self).copysign(self) }
            }
        }
        impl Float for $ty {
            type Bits = $bits;
            forward!($ty to_bits() -> $bits);
            forward!($ty sqrt() -> Self);
            forward!($ty floor() -> Self);
            forward!($ty ceil() -> Self);
            forward!($ty trunc() -> Self);
            forward!($ty round() -> Self);
            forward!($ty copysign(sign: Self) -> Self);
            forward!($ty mul_add(factor: Self, summand: Self) -> Self);
            forward!($ty is_nan() -> bool);
            forward!($ty is_finite() -> bool);
            forward!($ty is_infinite() -> bool);
            forward!($ty is_sign_negative() -> bool);
            forward!($ty is_sign_positive() -> bool);
            fn recip(self) -> Self {
                1.0 / self
            }
            // Not the method of the standard library, whose order of multiplications is not specified.
            fn powi(self, exponent: i32) -> Self {
                let (mut rest, mut square, mut result) = (exponent.unsigned_abs(), self, 1.0 as Self);
                while rest != 0 {
                    if rest & 1 == 1 {
                        result *= square;
                    }
                    rest >>= 1;
                    square *= square;
                }
                if exponent < 0 { 1.0 / result } else { result }
            }
        }
    )*};
}

floats! { f32 u32 f64 u64 }

impl sealed::Sealed for bool {}
impl Scalar for bool {}
impl Bits for bool {}

/// Functions with the same meaning in both modules.
macro_rules! common {
    () => {
        /// Element of an array.
        #[track_caller]
        pub fn index<T>(array: &[T], at: usize) -> &T {
            match array.get(at) {
                Some(element) => element,
                None => fail("index out of bounds"),
            }
        }

        /// Element of an array, to be changed.
        #[track_caller]
        pub fn index_mut<T>(array: &mut [T], at: usize) -> &mut T {
            match array.get_mut(at) {
                Some(element) => element,
                None => fail("index out of bounds"),
            }
        }

        /// Number of elements.
        pub fn len<T>(array: &[T]) -> usize {
            array.len()
        }

        /// Step of a range.
        #[track_caller]
        pub fn step(step: usize) -> usize {
            if step == 0 { fail("the step is 0") } else { step }
        }

        /// The number itself.
        pub fn number<T: Scalar>(value: T) -> T {
            value
        }

        /// Quotient.
        #[track_caller]
        pub fn div<T: Number>(a: T, b: T) -> T {
            match a.checked_div_rem(b) {
                None => fail("attempt to divide by zero"),
                Some((quotient, _)) => check(quotient, "attempt to divide with overflow"),
            }
        }

        /// Remainder.
        #[track_caller]
        pub fn rem<T: Number>(a: T, b: T) -> T {
            match a.checked_div_rem(b) {
                None => fail("attempt to calculate the remainder with a divisor of zero"),
                Some((_, rest)) => check(rest, "attempt to calculate the remainder with overflow"),
            }
        }

        #[track_caller]
        fn check<T>((value, overflows): (T, bool), text: &str) -> T {
            if overflows { fail(text) } else { value }
        }

        common!(operators Scalar eq == bool, ne != bool, lt < bool, le <= bool, gt > bool, ge >= bool);
        common!(operators Bits bitand & T, bitor | T, bitxor ^ T);

        /// Complement.
        pub fn not<T: Bits>(a: T) -> T {
            !a
        }

        common!(methods Number min(other: T) -> T, max(other: T) -> T, signum() -> T);
        common!(
            methods Integer
            wrapping_add(other: T) -> T, wrapping_sub(other: T) -> T, wrapping_mul(other: T) -> T,
            saturating_add(other: T) -> T, saturating_sub(other: T) -> T, abs_diff(other: T) -> T::Unsigned,
            wrapping_neg() -> T, wrapping_shl(bits: u32) -> T, wrapping_shr(bits: u32) -> T,
            rotate_left(bits: u32) -> T, rotate_right(bits: u32) -> T,
            count_ones() -> u32, count_zeros() -> u32, leading_zeros() -> u32, trailing_zeros() -> u32
        );
        common!(
            methods Float
            to_bits() -> <T as Float>::Bits, sqrt() -> T, floor() -> T, ceil() -> T, trunc() -> T, round() -> T, recip() -> T,
            copysign(sign: T) -> T, mul_add(factor: T, summand: T) -> T, powi(exponent: i32) -> T,
            is_nan() -> bool, is_finite() -> bool, is_infinite() -> bool, is_sign_negative() -> bool, is_sign_positive() -> bool
        );
    };
    (operators $bound:ident $($name:ident $op:tt $result:ident),*) => {$(
        #[allow(missing_docs)]
        pub fn $name<T: $bound>(a: T, b: T) -> $result {
            a $op b
        }
    )*};
    (methods $bound:ident $($name:ident($($argument:ident: $argument_ty:ty),*) -> $result:ty),*) => {$(
        #[allow(missing_docs)]
        pub fn $name<T: $bound>(value: T, $($argument: $argument_ty),*) -> $result {
            <T as $bound>::$name(value, $($argument),*)
        }
    )*};
}

/// Declares the operations that can overflow. `$end` takes a result, whether it overflowed, and the text of the failure.
macro_rules! overflowing {
    ($end:ident) => {
        common!();
        overflowing!($end Number add overflowing_add "attempt to add with overflow");
        overflowing!($end Number sub overflowing_sub "attempt to subtract with overflow");
        overflowing!($end Number mul overflowing_mul "attempt to multiply with overflow");

        /// Negative of a number.
        #[track_caller]
        pub fn neg<T: Number>(a: T) -> T {
            $end(a.overflowing_neg(), "attempt to negate with overflow")
        }

        /// Absolute value.
        #[track_caller]
        pub fn abs<T: Number>(a: T) -> T {
            $end(a.overflowing_abs(), "attempt to negate with overflow")
        }

        /// Shift to the left.
        #[track_caller]
        pub fn shl<T: Integer, U: Integer>(a: T, b: U) -> T {
            $end(a.shift(b.wide(), true), "attempt to shift left with overflow")
        }

        /// Shift to the right.
        #[track_caller]
        pub fn shr<T: Integer, U: Integer>(a: T, b: U) -> T {
            $end(a.shift(b.wide(), false), "attempt to shift right with overflow")
        }
    };
    ($end:ident $bound:ident $name:ident $method:ident $text:literal) => {
        #[allow(missing_docs)]
        #[track_caller]
        pub fn $name<T: $bound>(a: T, b: T) -> T {
            $end(<T as $bound>::$method(a, b), $text)
        }
    };
}

/// Overflow fails the message.
pub mod checked {
    use super::*;

    overflowing!(check);
}

/// Overflow wraps; a division that overflows fails the message nevertheless, as in Rust.
pub mod wrapping {
    use super::*;

    overflowing!(wrapped);

    fn wrapped<T>((value, _): (T, bool), _: &str) -> T {
        value
    }
}
