//! Errors for Rust that has no device code: what it is, and what to write instead.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Error, Expr, FnArg, Ident, ItemFn, Pat, PatIdent, Result};

/// Returns the error for an expression outside the subset.
pub fn expression(expr: &Expr) -> Error {
    let advice = match expr {
        Expr::Async(_) | Expr::Await(_) => "a handler runs to its end; send a message instead of waiting",
        Expr::Block(_) => "a labelled block has no device code; use `loop` with `break`",
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

/// Attributes that change nothing but the compiler's warnings.
const HARMLESS: [&str; 8] = ["allow", "cold", "deny", "doc", "expect", "forbid", "inline", "warn"];

/// Refuses what the translation would not see: attributes inside the body, such as `#[cfg]`, and another variable with the context's name.
pub fn check_body(function: &ItemFn, has_context: bool) -> Result<()> {
    struct Body {
        context: Option<Ident>,
        error: Option<Error>,
    }
    impl<'a> Visit<'a> for Body {
        fn visit_attribute(&mut self, attribute: &'a Attribute) {
            if !HARMLESS.iter().any(|name| attribute.path().is_ident(name)) {
                let text = "an attribute inside a device function is not seen by its translation; write two functions, or test a constant with `if`";
                self.error.get_or_insert_with(|| Error::new_spanned(attribute, text));
            }
        }

        fn visit_pat_ident(&mut self, pattern: &'a PatIdent) {
            if self.context.as_ref() == Some(&pattern.ident) {
                let text = "this variable has the name of the context; choose another name";
                self.error.get_or_insert_with(|| Error::new_spanned(pattern, text));
            }
            visit::visit_pat_ident(self, pattern);
        }
    }
    let first = function.sig.inputs.first().filter(|_| has_context).and_then(|input| match input {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(name) => Some(name.ident.clone()),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    });
    let mut body = Body { context: first, error: None };
    body.visit_block(&function.block);
    body.error.map_or(Ok(()), Err)
}
