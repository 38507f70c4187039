//! Translation of expressions and places.

use proc_macro2::Span;
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{BinOp, Error, Expr, ExprBinary, ExprPath, Lit, Member, Result, UnOp};

use super::lower::{Lower, Value};
use super::refuse;
use super::syntax::{compound, has_effects, is_float_literal, is_literal};
use super::types::{self, Kind, Ty};

impl Lower {
    /// Translates an expression that is a statement. Returns its type.
    pub fn statement(&mut self, expr: &Expr) -> Result<Ty> {
        match expr {
            Expr::Assign(assign) => {
                if let Expr::Infer(_) = &*assign.left {
                    self.value(&assign.right)?;
                    return Ok(Ty::Unit);
                }
                let value = self.value(&assign.right)?;
                let value = self.fixed(value);
                if self.referenced(&assign.left).is_some() {
                    return Err(Error::new(
                        assign.left.span(),
                        "this reference would refer to another place; write `*name = value` to store a value",
                    ));
                }
                let place = self.place(&assign.left)?;
                self.types.unify(&place.ty, &value.ty);
                self.emit(&format!("{} = {};", place.cpp, value.cpp));
                Ok(Ty::Unit)
            }
            Expr::Binary(binary) if compound(&binary.op).is_some() => self.compound_assignment(binary),
            _ => Ok(self.value(expr)?.ty),
        }
    }

    /// Translates an expression to a value.
    pub fn value(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Lit(literal) => self.literal(&literal.lit),
            Expr::Paren(paren) => self.value(&paren.expr),
            Expr::Group(group) => self.value(&group.expr),
            Expr::Path(path) => self.path(path),
            Expr::Field(_) | Expr::Index(_) => self.place(expr),
            Expr::Unary(unary) => match unary.op {
                UnOp::Deref(_) => self.place(&unary.expr),
                UnOp::Neg(_) => self.negation(&unary.expr),
                _ => {
                    let value = self.value(&unary.expr)?;
                    let cpp = format!("dc::rust::not_({})", value.cpp);
                    Ok(Value { cpp, ..value })
                }
            },
            Expr::Binary(binary) if compound(&binary.op).is_some() => {
                self.compound_assignment(binary)?;
                Ok(Value::unit())
            }
            Expr::Binary(binary) => self.binary(binary),
            Expr::Cast(cast) => {
                let value = self.value(&cast.expr)?;
                let Some(to) = types::scalar_type(&cast.ty) else {
                    return Err(Error::new(
                        cast.ty.span(),
                        "a cast in a device handler names a number type, `u8` to `f64`; a type alias or another type has no device code here",
                    ));
                };
                if let Ty::Variable(_) = self.types.resolve(&value.ty) {
                    let is_float = matches!(to, "float" | "double");
                    match is_literal(&cast.expr) {
                        // As in rustc: the literal has the type of the cast, if it can.
                        true if is_float == is_float_literal(&cast.expr) => {
                            self.types.unify(&Ty::cpp(to), &value.ty);
                        }
                        true => {}
                        false => {
                            return Err(Error::new(
                                cast.expr.span(),
                                "the type of this number is not known before the cast; write it, as in `1_u32`",
                            ));
                        }
                    }
                }
                let cpp = format!("dc::rust::cast<{to}>({})", value.cpp);
                Ok(Value { cpp, ty: Ty::cpp(to), is_place: value.is_place })
            }
            Expr::Block(block) if block.label.is_none() => self.block_value(block),
            Expr::If(branch) => self.branch(branch),
            Expr::Match(choice) => self.match_value(choice),
            Expr::Loop(repeat) => self.endless(repeat),
            Expr::While(repeat) => self.while_loop(repeat),
            Expr::ForLoop(repeat) => self.for_loop(repeat),
            Expr::Break(leave) => self.jump("break", leave.label.as_ref(), leave.expr.as_deref()),
            Expr::Continue(next) => self.jump("continue", next.label.as_ref(), None),
            Expr::Return(leave) => self.return_from(leave.expr.as_deref()),
            Expr::Struct(literal) => self.structure(literal),
            Expr::Array(array) => {
                let elements: Vec<&Expr> = array.elems.iter().collect();
                let values = self.operands(&elements)?;
                let element = self.types.fresh(Kind::Any);
                values.iter().for_each(|value| self.types.unify(&element, &value.ty));
                let array = Ty::Array(Box::new(element), format!("{}ull", values.len()));
                let name = self.temporary(&array);
                for (index, value) in values.iter().enumerate() {
                    self.emit(&format!("dc::rust::at({name}, {index}ull) = {};", value.cpp));
                }
                Ok(Value::temporary(name, array))
            }
            Expr::Repeat(repeat) => {
                let value = self.value(&repeat.expr)?;
                let value = self.fixed(value);
                let len = types::length(&repeat.len, &mut self.holes);
                let array = Ty::Array(Box::new(value.ty.clone()), len);
                let name = self.temporary(&array);
                self.emit(&format!("dc::rust::fill({name}, {});", value.cpp));
                Ok(Value::temporary(name, array))
            }
            Expr::Tuple(unit) if unit.elems.is_empty() => Ok(Value::unit()),
            Expr::Call(call) => self.call(call),
            Expr::MethodCall(call) => self.method(call),
            Expr::Assign(_) => {
                self.statement(expr)?;
                Ok(Value::unit())
            }
            other => Err(refuse::expression(other)),
        }
    }

    fn block_value(&mut self, block: &syn::ExprBlock) -> Result<Value> {
        let (name, ty) = self.target();
        let start = self.out.len();
        let found = self.block_into(&block.block, Some(&(name.clone(), ty.clone())))?;
        if matches!(found, Ty::Unit | Ty::Never) {
            return Ok(Value::temporary("", found));
        }
        self.out.insert_str(start, &format!("{} {name};\n", ty.text()));
        Ok(Value::temporary(name, ty))
    }

    /// Translates operands from left to right. One that reads memory is copied if a later one may change it.
    pub fn operands(&mut self, operands: &[&Expr]) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(operands.len());
        for (index, operand) in operands.iter().enumerate() {
            let value = self.value(operand)?;
            if matches!(value.ty, Ty::Unit | Ty::Never) {
                return Err(Error::new(
                    operand.span(),
                    "this operand has no value in device code; write it as a statement before",
                ));
            }
            let must_copy = operands[index + 1..].iter().any(|later| has_effects(later));
            values.push(if must_copy { self.fixed(value) } else { value });
        }
        Ok(values)
    }

    fn literal(&mut self, literal: &Lit) -> Result<Value> {
        match literal {
            Lit::Int(number) => {
                let digits = number.base10_digits();
                if digits.parse::<u64>().is_err() {
                    return Err(Error::new(
                        number.span(),
                        "this number needs more than 64 bits; a device handler has up to `u64` and `i64`",
                    ));
                }
                self.number_literal(digits, number.suffix(), Kind::Integer, number.span())
            }
            Lit::Float(number) => {
                self.number_literal(number.base10_digits(), number.suffix(), Kind::Float, number.span())
            }
            Lit::Bool(value) => {
                Ok(Value::temporary(if value.value { "true" } else { "false" }, Ty::cpp("bool")))
            }
            Lit::Byte(byte) => Ok(Value::temporary(format!("uint8_t({})", byte.value()), Ty::cpp("uint8_t"))),
            Lit::Char(_) => Err(Error::new(
                literal.span(),
                "`char` has no device code; write a byte, `b'x'`, or a number",
            )),
            _ => Err(Error::new(literal.span(), "text has no device code; use numbers, or an array of `u8`")),
        }
    }

    fn number_literal(&mut self, digits: &str, suffix: &str, kind: Kind, span: Span) -> Result<Value> {
        let ty = match suffix {
            "" => self.types.fresh(kind),
            _ => Ty::cpp(types::scalar(suffix).ok_or_else(|| {
                Error::new(
                    span,
                    "this number type has no device code; use `u8` to `u64`, `i8` to `i64`, `f32` or `f64`",
                )
            })?),
        };
        // A float literal is rounded once, from decimal to its type.
        let cpp = if kind == Kind::Integer {
            format!("static_cast<{}>({digits}ull)", ty.text())
        } else {
            let point = if digits.contains(['.', 'e', 'E']) { "" } else { ".0" };
            format!("dc::rust::literal<{}>({digits}{point}f, {digits}{point})", ty.text())
        };
        Ok(Value::temporary(cpp, ty))
    }

    fn negation(&mut self, operand: &Expr) -> Result<Value> {
        let value = self.value(operand)?;
        if let Expr::Lit(_) = operand {
            let cpp = format!("dc::rust::negative({})", value.cpp);
            return Ok(Value { cpp, ..value });
        }
        self.checked("neg", &[value], operand.span(), "attempt to negate with overflow")
    }

    /// Returns a constant of the user's program, whose value rustc computes.
    pub fn constant(&mut self, path: &ExprPath) -> Value {
        let span = path.span();
        let name = self.holes.add(quote_spanned!(span=> unit.constant_type(&#path)));
        let cpp = self.holes.add(quote_spanned!(span=> unit.constant(&#path)));
        Value::temporary(cpp, Ty::Cpp(name))
    }

    fn path(&mut self, path: &ExprPath) -> Result<Value> {
        if let Some(name) = path.path.get_ident().map(ToString::to_string) {
            if self.context.as_ref() == Some(&name) {
                return Err(Error::new(
                    path.span(),
                    "the context has no value on the device; call its methods in the handler itself, and pass numbers to functions",
                ));
            }
            if let Some(variable) = self.variable(&name) {
                if variable.is_reference {
                    return Err(Error::new(
                        path.span(),
                        format!(
                            "`{name}` is a reference, which is no value in device code; write `*{name}` for what it refers to"
                        ),
                    ));
                }
                return Ok(Value { cpp: variable.cpp.clone(), ty: variable.ty.clone(), is_place: true });
            }
        }
        Ok(self.constant(path))
    }

    /// Translates a place: what can be assigned, or borrowed.
    pub fn place(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Paren(paren) => self.place(&paren.expr),
            Expr::Unary(unary) if matches!(unary.op, UnOp::Deref(_)) => self.place(&unary.expr),
            Expr::Path(path) => {
                let name = path.path.get_ident().map(ToString::to_string).unwrap_or_default();
                match self.variable(&name) {
                    Some(variable) => {
                        Ok(Value { cpp: variable.cpp.clone(), ty: variable.ty.clone(), is_place: true })
                    }
                    None => self.path(path),
                }
            }
            Expr::Field(field) => {
                let base = self.place(&field.base)?;
                let Member::Named(name) = &field.member else {
                    return Err(Error::new(
                        field.member.span(),
                        "tuples have no device code; use a `#[message(record)]` struct with named fields",
                    ));
                };
                let Ty::Cpp(owner) = self.types.resolve(&base.ty) else {
                    return Err(Error::new(
                        field.base.span(),
                        "the type of this value is not known here; write it where it is declared",
                    ));
                };
                let ty = Ty::Cpp(format!("dc::rust::Of<decltype(dc::rust::make<{owner}>().{name})>"));
                Ok(Value { cpp: format!("dc::rust::view({}.{name})", base.cpp), ty, is_place: true })
            }
            Expr::Index(index) => {
                if let Expr::Range(range) = &*index.index {
                    return Err(Error::new(
                        range.span(),
                        "a part of an array has no device code; pass the array and two indices",
                    ));
                }
                let base = self.place(&index.expr)?;
                let Some(ty) = self.types.element(&base.ty) else {
                    return Err(Error::new(
                        index.expr.span(),
                        "the type of this array is not known here; write it where it is declared",
                    ));
                };
                let at = self.value(&index.index)?;
                self.types.unify(&Ty::cpp("uint64_t"), &at.ty);
                let name = format!("t{}", self.number());
                self.emit(&format!("uint64_t {name} = {};", at.cpp));
                let test = format!("{name} >= dc::rust::len({})", base.cpp);
                self.fault_if(&test, index.span(), "index out of bounds");
                Ok(Value { cpp: format!("dc::rust::at({}, {name})", base.cpp), ty, is_place: true })
            }
            other => {
                let value = self.value(other)?;
                if value.is_place {
                    return Ok(value);
                }
                // A place of its own, for a value that is borrowed.
                let name = self.temporary(&value.ty);
                self.emit(&format!("{name} = {};", value.cpp));
                Ok(Value { cpp: name, ty: value.ty, is_place: true })
            }
        }
    }

    /// Emits an operation that can fail. `operation` is a function in `rust.cuh`.
    pub fn checked(&mut self, operation: &str, operands: &[Value], span: Span, text: &str) -> Result<Value> {
        let ty = operands[0].ty.clone();
        let arguments: Vec<&str> = operands.iter().map(|operand| &*operand.cpp).collect();
        let name = self.temporary(&ty);
        let call = format!("dc::rust::{operation}({}, &{name})", arguments.join(", "));
        let can_fail = self.checks_overflow || matches!(operation, "div" | "rem");
        if can_fail {
            self.fault_if(&call, span, text);
        } else {
            self.emit(&format!("(void){call};"));
        }
        Ok(Value::temporary(name, ty))
    }

    fn binary(&mut self, binary: &ExprBinary) -> Result<Value> {
        if matches!(binary.op, BinOp::And(_) | BinOp::Or(_)) {
            return self.short_circuit(binary);
        }
        let operands = self.operands(&[&binary.left, &binary.right])?;
        self.operation(&binary.op, operands, binary.left.span())
    }

    fn operation(&mut self, op: &BinOp, operands: Vec<Value>, span: Span) -> Result<Value> {
        let is_shift = matches!(op, BinOp::Shl(_) | BinOp::Shr(_));
        if !is_shift {
            self.types.unify(&operands[0].ty, &operands[1].ty);
        }
        let direct = |operator: &str, ty: Ty| {
            let cpp =
                format!("static_cast<{}>({} {operator} {})", ty.text(), operands[0].cpp, operands[1].cpp);
            Ok(Value { cpp, ty, is_place: operands.iter().any(|operand| operand.is_place) })
        };
        let same = || operands[0].ty.clone();
        let boolean = || Ty::cpp("bool");
        match op {
            BinOp::Add(_) => self.checked("add", &operands, span, "attempt to add with overflow"),
            BinOp::Sub(_) => self.checked("sub", &operands, span, "attempt to subtract with overflow"),
            BinOp::Mul(_) => self.checked("mul", &operands, span, "attempt to multiply with overflow"),
            BinOp::Div(_) => self.division(
                "div",
                &operands,
                span,
                ["attempt to divide by zero", "attempt to divide with overflow"],
            ),
            BinOp::Rem(_) => self.division(
                "rem",
                &operands,
                span,
                [
                    "attempt to calculate the remainder with a divisor of zero",
                    "attempt to calculate the remainder with overflow",
                ],
            ),
            BinOp::Shl(_) => self.checked("shl", &operands, span, "attempt to shift left with overflow"),
            BinOp::Shr(_) => self.checked("shr", &operands, span, "attempt to shift right with overflow"),
            BinOp::BitAnd(_) => direct("&", same()),
            BinOp::BitOr(_) => direct("|", same()),
            BinOp::BitXor(_) => direct("^", same()),
            BinOp::Eq(_) => direct("==", boolean()),
            BinOp::Ne(_) => direct("!=", boolean()),
            BinOp::Lt(_) => direct("<", boolean()),
            BinOp::Le(_) => direct("<=", boolean()),
            BinOp::Gt(_) => direct(">", boolean()),
            BinOp::Ge(_) => direct(">=", boolean()),
            other => Err(Error::new(other.span(), "this operator has no device code")),
        }
    }

    fn division(
        &mut self,
        operation: &str,
        operands: &[Value],
        span: Span,
        texts: [&str; 2],
    ) -> Result<Value> {
        let divisor = self.fixed(operands[1].clone());
        self.fault_if(&format!("dc::rust::is_zero_divisor({})", divisor.cpp), span, texts[0]);
        self.checked(operation, &[operands[0].clone(), divisor], span, texts[1])
    }

    fn short_circuit(&mut self, binary: &ExprBinary) -> Result<Value> {
        let ty = Ty::cpp("bool");
        let left = self.value(&binary.left)?;
        let name = self.temporary(&ty);
        self.emit(&format!("{name} = {};", left.cpp));
        let negation = if matches!(binary.op, BinOp::Or(_)) { "!" } else { "" };
        self.emit(&format!("if ({negation}{name})"));
        self.scope(|lower| {
            let right = lower.value(&binary.right)?;
            lower.store(&right, Some(&(name.clone(), ty.clone())));
            Ok(())
        })?;
        Ok(Value::temporary(name, ty))
    }

    fn compound_assignment(&mut self, binary: &ExprBinary) -> Result<Ty> {
        let Some(op) = compound(&binary.op) else {
            return Err(Error::new(binary.op.span(), "this operator has no device code"));
        };
        // As in Rust for numbers: first the right side, then the place.
        let right = self.value(&binary.right)?;
        let right = self.fixed(right);
        let place = self.place(&binary.left)?;
        let result = self.operation(&op, vec![place.clone(), right], binary.left.span())?;
        self.emit(&format!("{} = {};", place.cpp, result.cpp));
        Ok(Ty::Unit)
    }
}
