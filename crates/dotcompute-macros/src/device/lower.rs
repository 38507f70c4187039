//! Translation of one function: its state, blocks and statements.
//!
//! Expressions become C++ statements with one temporary per operation. The order of evaluation is then Rust's, and a fault can return at once.

use std::collections::HashMap;

use proc_macro2::Span;
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Block, Error, Expr, Local, Pat, Result, Stmt, Type};

use super::refuse;
use super::text::Holes;
use super::types::{self, Kind, Ty, Types};

/// The result of an expression: C++ without side effects.
#[derive(Clone)]
pub struct Value {
    pub cpp: String,
    pub ty: Ty,
    /// Whether it reads memory that a later expression may change.
    pub is_place: bool,
}

impl Value {
    pub fn temporary(cpp: impl Into<String>, ty: Ty) -> Self {
        Self { cpp: cpp.into(), ty, is_place: false }
    }

    pub fn unit() -> Self {
        Self::temporary("", Ty::Unit)
    }

    pub fn never() -> Self {
        Self::temporary("", Ty::Never)
    }
}

/// A variable in scope.
#[derive(Clone)]
pub struct Variable {
    pub cpp: String,
    pub ty: Ty,
    pub is_reference: bool,
}

/// An enclosing loop.
pub struct Loop {
    pub label: Option<String>,
    pub id: usize,
    /// Where `break` stores its value.
    pub value: Option<(String, Ty)>,
}

/// What the function returns.
#[derive(Clone)]
pub enum Returns {
    /// `DeviceResult`, as the code of the error.
    Code,
    /// A value, or `()`.
    Value(Ty),
}

/// The translation of one function.
pub struct Lower {
    pub out: String,
    pub holes: Holes,
    pub types: Types,
    pub returns: Returns,
    /// Name of the function, which may not call itself.
    pub name: String,
    /// Name of the context; a `#[device_fn]` has none.
    pub context: Option<String>,
    /// Whether overflow is a fault.
    pub checks_overflow: bool,
    pub loops: Vec<Loop>,
    scopes: Vec<HashMap<String, Variable>>,
    next: usize,
}

impl Lower {
    pub fn new(name: String, returns: Returns, checks_overflow: bool) -> Self {
        Self {
            out: String::new(),
            holes: Holes::default(),
            types: Types::default(),
            returns,
            name,
            context: None,
            checks_overflow,
            loops: Vec::new(),
            scopes: vec![HashMap::new()],
            next: 0,
        }
    }

    pub fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    pub fn emit(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// Declares a variable and returns its name in C++, which differs from the name of every other variable: Rust may shadow it.
    pub fn declare(&mut self, name: &str, ty: Ty, is_reference: bool) -> String {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let cpp = format!("v{}_{plain}", self.number());
        self.declare_as(name, cpp.clone(), ty, is_reference);
        cpp
    }

    pub fn declare_as(&mut self, name: &str, cpp: String, ty: Ty, is_reference: bool) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), Variable { cpp, ty, is_reference });
        }
    }

    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    /// Declares a temporary without a value.
    pub fn temporary(&mut self, ty: &Ty) -> String {
        let name = format!("t{}", self.number());
        let declaration = format!("{} {name};", ty.text());
        self.emit(&declaration);
        name
    }

    /// Stores a value in a temporary, unless nothing can change it.
    pub fn fixed(&mut self, value: Value) -> Value {
        if !value.is_place {
            return value;
        }
        let name = format!("t{}", self.number());
        let declaration = format!("{} {name} = {};", value.ty.text(), value.cpp);
        self.emit(&declaration);
        Value::temporary(name, value.ty)
    }

    /// Calls `body` in a scope of its own, in braces.
    pub fn scope<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.emit("{");
        self.scopes.push(HashMap::new());
        let result = body(self);
        self.scopes.pop();
        self.emit("}");
        result
    }

    /// Emits a line that makes the message fail with `text` if `condition` is true. The line is that of `span`.
    pub fn fault_if(&mut self, condition: &str, span: Span, text: &str) {
        let code = self.holes.add(quote_spanned!(span=> unit.fault(::core::file!(), ::core::line!(), #text)));
        let leave = self.leave(&code);
        self.emit(&format!("if ({condition}) {leave}"));
    }

    /// Returns the statement that ends the function with the code of an error.
    pub fn leave(&self, code: &str) -> String {
        match &self.returns {
            Returns::Code => format!("return {code};"),
            Returns::Value(Ty::Unit) => format!("{{ dc_fault = {code}; return; }}"),
            Returns::Value(ty) => format!("{{ dc_fault = {code}; return {}(); }}", ty.text()),
        }
    }

    /// Translates the body of the function.
    pub fn body(&mut self, block: &Block) -> Result<()> {
        self.statements(block, true).map(|_| ())
    }

    /// Translates a block in a scope of its own. Its value goes to `target`.
    pub fn block_into(&mut self, block: &Block, target: Option<&(String, Ty)>) -> Result<Ty> {
        self.scope(|lower| {
            let value = lower.statements(block, false)?;
            lower.store(&value, target);
            Ok(value.ty)
        })
    }

    /// Stores the value of a branch.
    pub fn store(&mut self, value: &Value, target: Option<&(String, Ty)>) {
        if let Some((name, ty)) = target {
            self.types.unify(ty, &value.ty);
            if !matches!(value.ty, Ty::Unit | Ty::Never) {
                self.emit(&format!("{name} = {};", value.cpp));
            }
        }
    }

    /// Translates statements. `is_tail`: the value of the last one is what the function returns.
    fn statements(&mut self, block: &Block, is_tail: bool) -> Result<Value> {
        let mut value = Value::unit();
        for (index, statement) in block.stmts.iter().enumerate() {
            let is_last = index + 1 == block.stmts.len();
            self.line(statement.span());
            value = match statement {
                Stmt::Expr(expr, None) if is_last && is_tail => {
                    self.tail(expr)?;
                    Value::never()
                }
                Stmt::Expr(expr, None) if is_last => self.value(expr)?,
                Stmt::Expr(expr, _) => {
                    let ty = self.statement(expr)?;
                    if matches!(ty, Ty::Never) { Value::never() } else { Value::unit() }
                }
                Stmt::Local(local) => self.local(local)?,
                Stmt::Item(item) => {
                    return Err(Error::new(
                        item.span(),
                        "items inside a device function are not seen by what it calls; write it before the function",
                    ));
                }
                Stmt::Macro(call) => return Err(refuse::macro_call(&call.mac)),
            };
        }
        Ok(value)
    }

    /// Emits the user's file and line, for errors and debuggers.
    fn line(&mut self, span: Span) {
        let mark = self.holes.add(quote_spanned!(span=> unit.line(::core::file!(), ::core::line!())));
        self.emit(&mark);
    }

    fn local(&mut self, local: &Local) -> Result<Value> {
        let (name, annotation) = self.local_name(&local.pat)?;
        let Some(init) = &local.init else {
            let Some(annotation) = annotation else {
                return Err(Error::new(
                    local.pat.span(),
                    "`let` without a value: write its type, `let name: type;`",
                ));
            };
            let ty = types::translate(annotation, &mut self.holes)?;
            let cpp = self.declare(&name, ty.clone(), false);
            self.emit(&format!("{} {cpp};", ty.text()));
            return Ok(Value::unit());
        };
        if let Some((_, diverge)) = &init.diverge {
            return Err(Error::new(diverge.span(), "`let ... else` has no device code; use `match` or `if`"));
        }
        if let Some(place) = self.referenced(&init.expr) {
            let place = self.place(place)?;
            let cpp = self.declare(&name, place.ty.clone(), true);
            self.emit(&format!("auto &{cpp} = {};", place.cpp));
            return Ok(Value::unit());
        }
        let annotated = annotation.map(|ty| types::translate(ty, &mut self.holes)).transpose()?;
        let value = self.value(&init.expr)?;
        if matches!(value.ty, Ty::Never) {
            return Ok(value);
        }
        if matches!(value.ty, Ty::Unit) {
            return Err(Error::new(
                init.expr.span(),
                "this value is `()`, which has no device code; write it as a statement",
            ));
        }
        let ty = annotated.unwrap_or_else(|| value.ty.clone());
        self.types.unify(&ty, &value.ty);
        let cpp = self.declare(&name, ty.clone(), false);
        self.emit(&format!("{} {cpp} = {};", ty.text(), value.cpp));
        Ok(Value::unit())
    }

    fn local_name<'a>(&mut self, pattern: &'a Pat) -> Result<(String, Option<&'a Type>)> {
        match pattern {
            Pat::Ident(ident) if ident.by_ref.is_none() && ident.subpat.is_none() => {
                Ok((ident.ident.to_string(), None))
            }
            Pat::Wild(_) => Ok((format!("_ {}", self.number()), None)),
            Pat::Type(typed) => Ok((self.local_name(&typed.pat)?.0, Some(&typed.ty))),
            other => Err(refuse::pattern(other)),
        }
    }

    /// Returns the place that an expression refers to, if its value is a reference.
    pub fn referenced<'a>(&self, expr: &'a Expr) -> Option<&'a Expr> {
        match expr {
            Expr::Reference(reference) => Some(&reference.expr),
            Expr::Paren(paren) => self.referenced(&paren.expr),
            Expr::Path(path) => {
                let name = path.path.get_ident()?.to_string();
                self.variable(&name).is_some_and(|variable| variable.is_reference).then_some(expr)
            }
            _ => None,
        }
    }

    /// Returns a type variable for the value of branches.
    pub fn target(&mut self) -> (String, Ty) {
        let ty = self.types.fresh(Kind::Any);
        (format!("t{}", self.number()), ty)
    }
}
