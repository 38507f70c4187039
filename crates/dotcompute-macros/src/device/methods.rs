//! Methods of numbers, arrays and the context.

use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprCall, ExprMethodCall, ExprPath, Result};

use super::lower::{Lower, Value};
use super::types::Ty;

/// What a method returns.
#[derive(Clone, Copy)]
enum Returned {
    /// The type of the receiver.
    Same,
    U32,
    Bool,
}

/// A method of numbers: its name, the number of arguments of the receiver's type, the number of `u32` or `i32` arguments after them, and its
/// result. A function of the same name in `rust.cuh` and in `device::checked` of the runtime implements it.
const METHODS: [(&str, usize, Option<&str>, Returned); 34] = [
    ("min", 1, None, Returned::Same),
    ("max", 1, None, Returned::Same),
    ("wrapping_add", 1, None, Returned::Same),
    ("wrapping_sub", 1, None, Returned::Same),
    ("wrapping_mul", 1, None, Returned::Same),
    ("wrapping_neg", 0, None, Returned::Same),
    ("saturating_add", 1, None, Returned::Same),
    ("saturating_sub", 1, None, Returned::Same),
    ("wrapping_shl", 0, Some("uint32_t"), Returned::Same),
    ("wrapping_shr", 0, Some("uint32_t"), Returned::Same),
    ("rotate_left", 0, Some("uint32_t"), Returned::Same),
    ("rotate_right", 0, Some("uint32_t"), Returned::Same),
    ("count_ones", 0, None, Returned::U32),
    ("count_zeros", 0, None, Returned::U32),
    ("leading_zeros", 0, None, Returned::U32),
    ("trailing_zeros", 0, None, Returned::U32),
    ("is_power_of_two", 0, None, Returned::Bool),
    ("sqrt", 0, None, Returned::Same),
    ("floor", 0, None, Returned::Same),
    ("ceil", 0, None, Returned::Same),
    ("trunc", 0, None, Returned::Same),
    ("round", 0, None, Returned::Same),
    ("mul_add", 2, None, Returned::Same),
    ("copysign", 1, None, Returned::Same),
    ("recip", 0, None, Returned::Same),
    ("is_nan", 0, None, Returned::Bool),
    ("is_finite", 0, None, Returned::Bool),
    ("is_infinite", 0, None, Returned::Bool),
    ("is_sign_negative", 0, None, Returned::Bool),
    ("is_sign_positive", 0, None, Returned::Bool),
    ("abs", 0, None, Returned::Same),
    ("abs_diff", 1, None, Returned::Same),
    ("signum", 0, None, Returned::Same),
    ("powi", 0, Some("int32_t"), Returned::Same),
];

/// Whether a method belongs to numbers.
pub fn is_number_method(name: &str) -> bool {
    METHODS.iter().any(|(method, ..)| *method == name)
}

impl Lower {
    pub fn method(&mut self, call: &ExprMethodCall) -> Result<Value> {
        let name = call.method.to_string();
        if let Expr::Path(path) = &*call.receiver
            && path.path.get_ident().map(ToString::to_string).as_ref() == self.context.as_ref()
            && self.context.is_some()
        {
            return self.context_method(&name, call);
        }
        if let Some(turbofish) = &call.turbofish {
            return Err(Error::new(
                turbofish.span(),
                "generic methods have no device code; write a loop, or a `#[device_fn]` for one type",
            ));
        }
        match (&*name, call.args.len()) {
            ("len", 0) => {
                let array = self.place(&call.receiver)?;
                return Ok(Value::temporary(format!("dc::rust::len({})", array.cpp), Ty::cpp("uint64_t")));
            }
            ("to_bits", 0) => {
                let value = self.value(&call.receiver)?;
                let cpp = format!("dc::rust::to_bits({})", value.cpp);
                let ty = Ty::Cpp(format!("dc::rust::Bits<{}>", value.ty.text()));
                return Ok(Value { cpp, ty, is_place: value.is_place });
            }
            (
                "exp" | "ln" | "log" | "log2" | "log10" | "exp2" | "sin" | "cos" | "tan" | "tanh" | "powf"
                | "sinh" | "cosh" | "atan2" | "hypot" | "cbrt",
                _,
            ) => {
                return Err(Error::new(
                    call.method.span(),
                    format!(
                        "`{name}` differs in its last bits between CPUs and GPUs; write a polynomial as a `#[device_fn]`"
                    ),
                ));
            }
            _ => {}
        }
        let Some(&(_, same, other, returned)) = METHODS.iter().find(|(method, ..)| *method == name) else {
            return Err(Error::new(
                call.method.span(),
                format!(
                    "the method `{name}` has no device code; write a `#[device_fn]` function, or see the table of methods in docs/device-handlers.md"
                ),
            ));
        };
        if call.args.len() != same + usize::from(other.is_some()) {
            return Err(Error::new(
                call.method.span(),
                format!(
                    "`{name}` of numbers has another number of arguments; other methods have no device code"
                ),
            ));
        }
        // As in Rust, the receiver may be a reference to a number.
        let dereferenced;
        let receiver = match self.referenced(&call.receiver) {
            Some(place) => {
                dereferenced = syn::parse_quote!(*#place);
                &dereferenced
            }
            None => &*call.receiver,
        };
        let mut operands: Vec<&Expr> = vec![receiver];
        operands.extend(&call.args);
        let values = self.operands(&operands)?;
        values[1..=same].iter().for_each(|value| self.types.unify(&values[0].ty, &value.ty));
        if let Some(other) = other {
            self.types.unify(&Ty::cpp(other), &values[same + 1].ty);
        }
        if name == "abs" && self.checks_overflow {
            return self.checked("abs", &values, call.receiver.span(), "attempt to negate with overflow");
        }
        let arguments: Vec<&str> = values.iter().map(|value| &*value.cpp).collect();
        let function = if name == "abs" { "wrapping_abs" } else { &*name };
        let cpp = format!("dc::rust::{function}({})", arguments.join(", "));
        let ty = match returned {
            Returned::Same if name == "abs_diff" => {
                Ty::Cpp(format!("dc::rust::Unsigned<{}>", values[0].ty.text()))
            }
            Returned::Same => values[0].ty.clone(),
            Returned::U32 => Ty::cpp("uint32_t"),
            Returned::Bool => Ty::cpp("bool"),
        };
        Ok(Value { cpp, ty, is_place: values.iter().any(|value| value.is_place) })
    }

    fn context_method(&mut self, name: &str, call: &ExprMethodCall) -> Result<Value> {
        match (name, call.args.first()) {
            ("reply" | "send", Some(output)) => {
                let value = self.value(output)?;
                let value = self.fixed(value);
                self.emit(&format!("dc_ctx.{name}({});", value.cpp));
                Ok(Value::unit())
            }
            ("asked", None) => Ok(Value::temporary("(dc_ctx.wants_reply != 0)", Ty::cpp("bool"))),
            ("priority", None) => {
                Ok(Value::temporary("static_cast<uint8_t>(dc_ctx.priority)", Ty::cpp("uint8_t")))
            }
            ("now", None) => {
                let ty = Ty::cpp("uint64_t");
                let now = self.temporary(&ty);
                self.emit(&format!("{now} = dc_ctx.now_ns();"));
                Ok(Value::temporary(now, ty))
            }
            _ => Err(Error::new(
                call.method.span(),
                format!(
                    "`DeviceContext` has no `{name}`; it has `reply`, `send`, `asked`, `priority` and `now`"
                ),
            )),
        }
    }

    /// Translates the functions of number types that are called by a path.
    pub fn associated_call(&mut self, path: &ExprPath, name: &str, call: &ExprCall) -> Result<Option<Value>> {
        let owner = path.path.segments.iter().rev().nth(1).map(|segment| segment.ident.to_string());
        let Some(owner) = owner else { return Ok(None) };
        let scalar = super::types::scalar(&owner);
        match (scalar, name, call.args.first()) {
            (Some(to @ ("float" | "double")), "from_bits", Some(bits)) => {
                let value = self.value(bits)?;
                let parameter = if to == "float" { "uint32_t" } else { "uint64_t" };
                self.types.unify(&Ty::cpp(parameter), &value.ty);
                let cpp = format!("dc::rust::from_bits<{to}>({})", value.cpp);
                Ok(Some(Value { cpp, ty: Ty::cpp(to), is_place: value.is_place }))
            }
            (Some(to), "from", Some(from)) => {
                let value = self.value(from)?;
                let cpp = format!("dc::rust::cast<{to}>({})", value.cpp);
                Ok(Some(Value { cpp, ty: Ty::cpp(to), is_place: value.is_place }))
            }
            (Some(_), _, _) => Err(Error::new(
                call.span(),
                format!(
                    "`{owner}::{name}` has no device code; see the table of methods in docs/device-handlers.md"
                ),
            )),
            (None, _, _) if owner.chars().next().is_some_and(char::is_uppercase) => Err(Error::new(
                quote_spanned!(path.span()=> x).span(),
                format!(
                    "`{owner}::{name}` is a method, which has no device code; write a `#[device_fn]` function beside the `impl`"
                ),
            )),
            _ => Ok(None),
        }
    }
}
