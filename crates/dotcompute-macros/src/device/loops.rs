//! Loops, and the jumps out of them.

use syn::spanned::Spanned;
use syn::{Error, Expr, ExprForLoop, ExprMethodCall, ExprRange, Label, Lifetime, Pat, RangeLimits, Result};

use super::lower::{Loop, Lower, Value};
use super::refuse;
use super::types::{Kind, Ty};

impl Lower {
    /// Emits a loop around `body`. `head` is what follows `for`.
    fn looped(
        &mut self,
        head: &str,
        label: Option<&Label>,
        value: Option<(String, Ty)>,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let id = self.number();
        self.loops.push(Loop { label: label.map(|label| label.name.ident.to_string()), id, value });
        self.emit(&format!("for {head}"));
        let result = self.scope(|lower| {
            lower.scope(body)?;
            lower.emit(&format!("continue_{id}:;"));
            Ok(())
        });
        self.loops.pop();
        self.emit(&format!("break_{id}:;"));
        result
    }

    pub fn endless(&mut self, repeat: &syn::ExprLoop) -> Result<Value> {
        let target = self.target();
        let start = self.out.len();
        self.looped("(;;)", repeat.label.as_ref(), Some(target.clone()), |lower| {
            lower.block_into(&repeat.body, None).map(|_| ())
        })?;
        let mut breaks = Breaks {
            label: repeat.label.as_ref().map(|label| label.name.clone()),
            depth: 0,
            any: false,
            value: false,
        };
        breaks.block(&repeat.body);
        match (breaks.any, breaks.value) {
            (false, _) => Ok(Value::never()),
            (true, false) => Ok(Value::unit()),
            (true, true) => {
                let (name, ty) = target;
                self.out.insert_str(start, &format!("{} {name};\n", ty.text()));
                Ok(Value::temporary(name, ty))
            }
        }
    }

    pub fn while_loop(&mut self, repeat: &syn::ExprWhile) -> Result<Value> {
        self.looped("(;;)", repeat.label.as_ref(), None, |lower| {
            let condition = lower.value(&repeat.cond)?;
            let id = lower.loops.last().map_or(0, |found| found.id);
            lower.emit(&format!("if (!({})) goto break_{id};", condition.cpp));
            lower.block_into(&repeat.body, None).map(|_| ())
        })?;
        Ok(Value::unit())
    }

    pub fn for_loop(&mut self, repeat: &ExprForLoop) -> Result<Value> {
        self.scope(|lower| match &*repeat.expr {
            Expr::Range(range) => lower.range_loop(repeat, range, None, false),
            Expr::Paren(paren) => match &*paren.expr {
                Expr::Range(range) => lower.range_loop(repeat, range, None, false),
                _ => lower.array_loop(repeat, &repeat.expr),
            },
            Expr::MethodCall(call) => lower.adapted_loop(repeat, call),
            expr => lower.array_loop(repeat, expr),
        })?;
        Ok(Value::unit())
    }

    fn adapted_loop(&mut self, repeat: &ExprForLoop, call: &ExprMethodCall) -> Result<()> {
        let range = match &*call.receiver {
            Expr::Paren(paren) => match &*paren.expr {
                Expr::Range(range) => Some(range),
                _ => None,
            },
            _ => None,
        };
        match (&*call.method.to_string(), range, call.args.first()) {
            ("step_by", Some(range), Some(step)) => self.range_loop(repeat, range, Some(step), false),
            ("rev", Some(range), None) => self.range_loop(repeat, range, None, true),
            ("iter" | "iter_mut", None, None) => self.array_loop(repeat, &call.receiver),
            _ => Err(Error::new(
                call.span(),
                "a `for` loop counts over `a..b`, `a..=b`, `(a..b).step_by(n)`, `(a..b).rev()`, or an array; other iterators have no device code, use an index",
            )),
        }
    }

    fn range_loop(
        &mut self,
        repeat: &ExprForLoop,
        range: &ExprRange,
        step: Option<&Expr>,
        is_reversed: bool,
    ) -> Result<()> {
        let (Some(start), Some(end)) = (&range.start, &range.end) else {
            return Err(Error::new(
                range.span(),
                "a `for` loop needs both ends of its range; use `loop` with `break`",
            ));
        };
        let ends = self.operands(&[start, end])?;
        let ty = self.types.fresh(Kind::Integer);
        self.types.unify(&ends[0].ty, &ty);
        self.types.unify(&ends[1].ty, &ty);
        let id = self.number();
        self.emit(&format!("{} first{id} = {}, last{id} = {};", ty.text(), ends[0].cpp, ends[1].cpp));
        let mut by = String::from("1");
        if let Some(step) = step {
            let value = self.value(step)?;
            self.types.unify(&Ty::cpp("uint64_t"), &value.ty);
            self.emit(&format!("uint64_t step{id} = {};", value.cpp));
            by = format!("step{id}");
            self.fault_if(&format!("{by} == 0"), step.span(), "the step is 0");
        }
        let is_closed = matches!(range.limits, RangeLimits::Closed(_));
        self.emit(&format!("bool more{id} = dc::rust::first_of_range(first{id}, last{id}, {is_closed});"));
        let (from, to, advance) = if is_reversed {
            (format!("last{id}"), format!("first{id}"), "back")
        } else {
            (format!("first{id}"), format!("last{id}"), "forward")
        };
        let head = format!("(; more{id}; more{id} = dc::rust::{advance}({from}, {to}, {by}))");
        self.looped(&head, repeat.label.as_ref(), None, |lower| {
            match &*repeat.pat {
                Pat::Ident(ident) if ident.subpat.is_none() && ident.by_ref.is_none() => {
                    let cpp = lower.declare(&ident.ident.to_string(), ty.clone(), false);
                    lower.emit(&format!("{} {cpp} = {from};", ty.text()));
                }
                Pat::Wild(_) => {}
                other => return Err(refuse::pattern(other)),
            }
            lower.block_into(&repeat.body, None).map(|_| ())
        })
    }

    fn array_loop(&mut self, repeat: &ExprForLoop, expr: &Expr) -> Result<()> {
        let by_reference = self.referenced(expr).is_some() || matches!(&*repeat.expr, Expr::MethodCall(_));
        let array = match self.referenced(expr) {
            Some(place) => self.place(place)?,
            None if by_reference => self.place(expr)?,
            None => {
                let value = self.value(expr)?;
                self.fixed(value)
            }
        };
        let Some(element) = self.types.element(&array.ty) else {
            return Err(Error::new(
                expr.span(),
                "the type of this array is not known here; write it where it is declared",
            ));
        };
        let id = self.number();
        let head = format!("(uint64_t index{id} = 0; index{id} < dc::rust::len({}); ++index{id})", array.cpp);
        self.looped(&head, repeat.label.as_ref(), None, |lower| {
            match &*repeat.pat {
                Pat::Ident(ident) if ident.subpat.is_none() && ident.by_ref.is_none() => {
                    let cpp = lower.declare(&ident.ident.to_string(), element.clone(), by_reference);
                    let declared = if by_reference { String::from("auto &") } else { element.text() };
                    lower.emit(&format!("{declared} {cpp} = dc::rust::at({}, index{id});", array.cpp));
                }
                Pat::Wild(_) => {}
                other => return Err(refuse::pattern(other)),
            }
            lower.block_into(&repeat.body, None).map(|_| ())
        })
    }

    /// Emits a jump out of a loop or to its next round.
    pub fn jump(&mut self, keyword: &str, label: Option<&Lifetime>, value: Option<&Expr>) -> Result<Value> {
        let name = label.map(|label| label.ident.to_string());
        let found = self.loops.iter().rev().find(|found| name.is_none() || found.label == name);
        let Some((id, target)) = found.map(|found| (found.id, found.value.clone())) else {
            let span = label.map_or_else(proc_macro2::Span::call_site, Lifetime::span);
            return Err(Error::new(span, "a labelled block has no device code; label a loop"));
        };
        if let Some(value) = value {
            let value = self.value(value)?;
            self.store(&value, target.as_ref());
        }
        self.emit(&format!("goto {keyword}_{id};"));
        Ok(Value::never())
    }
}

/// Looks for the `break`s of a loop.
struct Breaks {
    label: Option<Lifetime>,
    depth: usize,
    any: bool,
    value: bool,
}

impl Breaks {
    fn block(&mut self, block: &syn::Block) {
        syn::visit::Visit::visit_block(self, block);
    }

    fn inner(&mut self, visit: impl FnOnce(&mut Self)) {
        self.depth += 1;
        visit(self);
        self.depth -= 1;
    }
}

impl<'a> syn::visit::Visit<'a> for Breaks {
    fn visit_expr_break(&mut self, leave: &'a syn::ExprBreak) {
        let is_this = match &leave.label {
            Some(label) => self.label.as_ref().is_some_and(|own| own.ident == label.ident),
            None => self.depth == 0,
        };
        if is_this {
            self.any = true;
            self.value |= leave.expr.is_some();
        }
        syn::visit::visit_expr_break(self, leave);
    }

    fn visit_expr_loop(&mut self, inner: &'a syn::ExprLoop) {
        self.inner(|breaks| syn::visit::visit_expr_loop(breaks, inner));
    }

    fn visit_expr_while(&mut self, inner: &'a syn::ExprWhile) {
        self.inner(|breaks| syn::visit::visit_expr_while(breaks, inner));
    }

    fn visit_expr_for_loop(&mut self, inner: &'a ExprForLoop) {
        self.inner(|breaks| syn::visit::visit_expr_for_loop(breaks, inner));
    }
}
