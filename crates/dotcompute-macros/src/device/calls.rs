//! Struct literals, and calls of device functions.

use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprCall, ExprPath, ExprStruct, Member, Result};

use super::lower::{Lower, Value};
use super::syntax::has_effects;
use super::types::Ty;

impl Lower {
    pub fn structure(&mut self, literal: &ExprStruct) -> Result<Value> {
        if let Some(rest) = &literal.rest {
            return Err(Error::new(
                rest.span(),
                "`..rest` has no device code; copy the struct with `let mut name = rest;` and assign its fields",
            ));
        }
        let path = &literal.path;
        let ty = Ty::Cpp(self.holes.add(quote!(unit.type_name::<#path>())));
        let fields: Vec<&Expr> = literal.fields.iter().map(|field| &field.expr).collect();
        let values = self.operands(&fields)?;
        let name = self.temporary(&ty);
        for (field, value) in literal.fields.iter().zip(values) {
            let Member::Named(field) = &field.member else {
                return Err(Error::new(
                    field.member.span(),
                    "tuple structs have no device code; name the fields",
                ));
            };
            let of = Ty::Cpp(format!("dc::rust::Of<decltype(dc::rust::make<{}>().{field})>", ty.text()));
            self.types.unify(&of, &value.ty);
            self.emit(&format!("dc::rust::view({name}.{field}) = {};", value.cpp));
        }
        Ok(Value::temporary(name, ty))
    }

    pub fn call(&mut self, call: &ExprCall) -> Result<Value> {
        let Expr::Path(path) = &*call.func else {
            return Err(Error::new(
                call.func.span(),
                "only functions can be called on a device; name a `#[device_fn]`",
            ));
        };
        let last = path.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        if let Some(value) = self.associated_call(path, &last, call)? {
            return Ok(value);
        }
        if matches!(&*last, "Ok" | "Err" | "Some" | "None") {
            return Err(Error::new(
                call.span(),
                "`Option` and `Result` have no device code, except as what a handler returns; use a flag or a code",
            ));
        }
        if path.path.is_ident(&self.name) {
            return Err(Error::new(
                call.span(),
                "a device function does not call itself: its stack is small; use a loop",
            ));
        }
        self.device_fn(path, call)
    }

    /// Translates the call of another device function.
    fn device_fn(&mut self, path: &ExprPath, call: &ExprCall) -> Result<Value> {
        let span = path.span();
        let arguments: Vec<&Expr> = call.args.iter().collect();
        let mut texts = Vec::new();
        for (index, argument) in arguments.iter().enumerate() {
            let later_has_effects = arguments[index + 1..].iter().any(|later| has_effects(later));
            let value = match self.referenced(argument) {
                Some(place) => self.place(place)?,
                None => {
                    let value = self.value(argument)?;
                    if later_has_effects { self.fixed(value) } else { value }
                }
            };
            let parameter = self.holes.add(quote_spanned!(span=> unit.parameter::<#path>(#index)));
            self.types.unify(&Ty::Cpp(parameter), &value.ty);
            texts.push(value.cpp);
        }
        texts.insert(0, String::from("dc_fault"));
        let function = self.holes.add(quote_spanned!(span=> unit.function::<#path>()));
        let call = format!("{function}({})", texts.join(", "));
        let ty = Ty::Cpp(self.holes.add(quote_spanned!(span=> unit.result::<#path>())));
        let name = format!("t{}", self.number());
        self.emit(&format!("auto {name} = dc::rust::called([&] {{ return {call}; }});"));
        let leave = self.leave("dc_fault");
        self.emit(&format!("if (dc_fault) {leave}"));
        Ok(Value { cpp: name, ty, is_place: false })
    }
}
