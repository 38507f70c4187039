//! The operations of device functions on the CPU. `#[device_handler]` replaces operators by these functions, whatever the build profile.
//!
//! A failure is a panic whose text starts with the user's file and line. `rust.cuh` of `dotcompute-cuda` has the same functions for devices.

use std::cell::Cell;
use std::panic::{Location, resume_unwind};

use super::numbers::{Bits, Float, Integer, Number, Scalar};
use crate::user_code::catch_panic;

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

        /// Division.
        #[track_caller]
        pub fn div<T: Number>(a: T, b: T) -> T {
            match a.checked_div_rem(b) {
                None => fail("attempt to divide by zero"),
                Some((result, _)) => check(result, "attempt to divide with overflow"),
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
