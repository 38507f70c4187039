//! Errors for Rust that has no device code: what it is, and what to write instead.

use syn::spanned::Spanned;
use syn::{Error, Expr, Pat};

/// Returns the error for an expression outside the subset.
pub fn expression(expr: &Expr) -> Error {
    let advice = match expr {
        Expr::Async(_) | Expr::Await(_) => "a handler runs to its end; send a message instead of waiting",
        Expr::Closure(_) => "closures have no device code; write a `#[device_fn]` function",
        Expr::Macro(call) => return macro_call(&call.mac),
        Expr::Tuple(_) => "tuples have no device code; use a `#[message(record)]` struct, or two variables",
        Expr::Try(_) => "`?` has no device code; match on a value, and `return Err(DeviceError::new(code))`",
        Expr::Unsafe(_) => {
            "`unsafe` has no device code; write this handler in CUDA C++ with `DeviceKernel::cuda_cpp`"
        }
        Expr::Range(_) => "a range may only be what a `for` loop counts over; use two integers",
        Expr::Reference(_) => {
            "a reference may only be an argument, or bound by `let name = &place`; use the value"
        }
        Expr::Let(_) => "`if let` and `while let` have no device code; use `match` or `if` with a comparison",
        Expr::Assign(_) => "the value of an assignment is `()`; write it as a statement",
        _ => "this expression has no device code; see the table of the subset in docs/device-handlers.md",
    };
    Error::new(expr.span(), advice)
}

/// Returns the error for a macro call.
pub fn macro_call(call: &syn::Macro) -> Error {
    let name = call.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
    let advice = match &*name {
        "panic" | "todo" | "unimplemented" | "unreachable" | "assert" | "assert_eq" | "assert_ne" => {
            "a device handler does not panic; `return Err(DeviceError::new(code))`"
        }
        "println" | "print" | "eprintln" | "eprint" | "dbg" | "format" | "write" | "writeln" => {
            "a device has no text output; send a message with `ctx.send`"
        }
        "vec" => "a device does not allocate; use an array of a fixed length",
        _ => "macros are expanded after the translation to device code; write out what it expands to",
    };
    Error::new_spanned(call, format!("`{name}!`: {advice}"))
}

/// Returns the error for a pattern outside the subset.
pub fn pattern(pattern: &Pat) -> Error {
    let advice = match pattern {
        Pat::Tuple(_) | Pat::TupleStruct(_) => {
            "tuples and enums with data have no device code; use fields of a struct"
        }
        Pat::Struct(_) | Pat::Slice(_) => {
            "patterns that take values apart have no device code; name the value and use its fields or elements"
        }
        Pat::Reference(_) => "patterns with `&` have no device code; name the reference and write `*name`",
        _ => "this pattern has no device code; use a name, a literal, a range, a constant, `|` or `_`",
    };
    Error::new(pattern.span(), advice)
}
