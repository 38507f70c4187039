//! The types that device code computes with, as traits that rustc checks.

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
    /// Results of division and remainder with their overflows; `None` for an integer divisor of zero.
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
