//! Control flow: `if`, `match`, loops, `break`, `continue`, `return`.

use syn::spanned::Spanned;
use syn::{
    Error, Expr, ExprForLoop, ExprIf, ExprMatch, ExprMethodCall, ExprRange, Label, Lifetime, Pat,
    RangeLimits, Result,
};

use super::lower::{Loop, Lower, Returns, Value};
use super::refuse;
use super::types::{Kind, Ty};

impl Lower {
    /// Translates the expression whose value the function returns.
    pub fn tail(&mut self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::If(branch) => self.if_tail(branch),
            Expr::Match(choice) => {
                self.arms(choice, |lower, body| {
                    lower.tail(body)?;
                    Ok(Ty::Never)
                })?;
                Ok(())
            }
            Expr::Block(block) if block.label.is_none() => self.scope(|lower| lower.body(&block.block)),
            Expr::Paren(paren) => self.tail(&paren.expr),
            _ => self.return_value(expr),
        }
    }

    fn if_tail(&mut self, branch: &ExprIf) -> Result<()> {
        let Some((_, otherwise)) = &branch.else_branch else {
            return self.return_value(&Expr::If(branch.clone()));
        };
        let condition = self.value(&branch.cond)?;
        self.emit(&format!("if ({})", condition.cpp));
        self.scope(|lower| lower.body(&branch.then_branch))?;
        self.emit("else");
        self.scope(|lower| lower.tail(otherwise))
    }

    fn return_value(&mut self, expr: &Expr) -> Result<()> {
        match self.returns.clone() {
            Returns::Code => self.return_code(expr),
            Returns::Value(ty) => {
                let value = self.value(expr)?;
                self.types.unify(&ty, &value.ty);
                match (&ty, value.ty) {
                    (_, Ty::Never) => {}
                    (Ty::Unit, _) | (_, Ty::Unit) => self.emit("return;"),
                    _ => self.emit(&format!("return {};", value.cpp)),
                }
                Ok(())
            }
        }
    }

    /// Translates the `DeviceResult` that a handler returns.
    fn return_code(&mut self, expr: &Expr) -> Result<()> {
        let refused = || {
            Error::new(
                expr.span(),
                "a device handler returns `Ok(())` or `Err(DeviceError::new(code))`, written out where it returns",
            )
        };
        match expr {
            Expr::Return(_) | Expr::Loop(_) | Expr::Break(_) | Expr::Continue(_) => {
                self.value(expr)?;
                return Ok(());
            }
            Expr::Call(_) => {}
            _ => return Err(refused()),
        }
        let (name, argument) = single_argument(expr).ok_or_else(refused)?;
        match (&*name, argument) {
            ("Ok", Expr::Tuple(unit)) if unit.elems.is_empty() => {
                self.emit("return 0;");
                Ok(())
            }
            ("Err", error) => {
                let (name, code) = single_argument(error).ok_or_else(refused)?;
                if name != "new" {
                    return Err(refused());
                }
                let value = self.value(code)?;
                self.types.unify(&Ty::cpp("int32_t"), &value.ty);
                let value = self.fixed(value);
                let text = "the code of a `DeviceError` is 0 or below -1073741824; use another one";
                self.fault_if(&format!("dc::rust::is_reserved({})", value.cpp), code.span(), text);
                self.emit(&format!("return {};", value.cpp));
                Ok(())
            }
            _ => Err(refused()),
        }
    }

    /// Translates `if`, whose value goes to the temporary that is returned.
    pub fn branch(&mut self, branch: &ExprIf) -> Result<Value> {
        let Some((_, otherwise)) = &branch.else_branch else {
            let condition = self.value(&branch.cond)?;
            self.emit(&format!("if ({})", condition.cpp));
            self.block_into(&branch.then_branch, None)?;
            return Ok(Value::unit());
        };
        let target = self.target();
        let start = self.out.len();
        let condition = self.value(&branch.cond)?;
        self.emit(&format!("if ({})", condition.cpp));
        let then = self.block_into(&branch.then_branch, Some(&target))?;
        self.emit("else");
        let other = self.scope(|lower| {
            let value = lower.value(otherwise)?;
            lower.store(&value, Some(&target));
            Ok(value.ty)
        })?;
        Ok(self.joined(start, target, [then, other]))
    }

    /// Declares the target of branches before their code, if a branch has a value.
    fn joined(
        &mut self,
        start: usize,
        target: (String, Ty),
        branches: impl IntoIterator<Item = Ty>,
    ) -> Value {
        let branches: Vec<Ty> = branches.into_iter().collect();
        if branches.iter().all(|ty| matches!(ty, Ty::Never)) {
            return Value::never();
        }
        if branches.iter().all(|ty| matches!(ty, Ty::Never | Ty::Unit)) {
            return Value::unit();
        }
        let (name, ty) = target;
        self.out.insert_str(start, &format!("{} {name};\n", ty.text()));
        Value::temporary(name, ty)
    }

    pub fn match_value(&mut self, choice: &ExprMatch) -> Result<Value> {
        let target = self.target();
        let start = self.out.len();
        let branches = self.arms(choice, |lower, body| {
            let value = lower.value(body)?;
            lower.store(&value, Some(&target));
            Ok(value.ty)
        })?;
        Ok(self.joined(start, target, branches))
    }

    /// Translates the arms of a `match` to a chain of tests in one block that is left after the arm.
    fn arms(
        &mut self,
        choice: &ExprMatch,
        mut body: impl FnMut(&mut Self, &Expr) -> Result<Ty>,
    ) -> Result<Vec<Ty>> {
        let scrutinee = self.value(&choice.expr)?;
        let scrutinee = self.fixed(scrutinee);
        let end = format!("matched_{}", self.number());
        let mut types = Vec::new();
        for arm in &choice.arms {
            let (pattern, guard) = match &arm.pat {
                Pat::Guard(guarded) => (&*guarded.pat, Some(&*guarded.guard)),
                pattern => (pattern, None),
            };
            let test = self.pattern_test(pattern, &scrutinee)?;
            self.emit(&format!("if ({test})"));
            let ty = self.scope(|lower| {
                lower.bind(pattern, &scrutinee);
                if let Some(guard) = guard {
                    let guard = lower.value(guard)?;
                    lower.emit(&format!("if ({})", guard.cpp));
                    lower.scope(|lower| lower.arm(&arm.body, &end, &mut body))
                } else {
                    lower.arm(&arm.body, &end, &mut body)
                }
            })?;
            types.push(ty);
        }
        self.emit(&format!("dc::rust::unreachable();\n{end}:;"));
        Ok(types)
    }

    fn arm(
        &mut self,
        arm: &Expr,
        end: &str,
        body: &mut impl FnMut(&mut Self, &Expr) -> Result<Ty>,
    ) -> Result<Ty> {
        let ty = self.scope(|lower| body(lower, arm))?;
        self.emit(&format!("goto {end};"));
        Ok(ty)
    }

    /// Returns the condition under which a pattern matches.
    fn pattern_test(&mut self, pattern: &Pat, value: &Value) -> Result<String> {
        match pattern {
            Pat::Wild(_) => Ok(String::from("true")),
            Pat::Ident(ident) if ident.by_ref.is_none() => match &ident.subpat {
                Some((_, inner)) => self.pattern_test(inner, value),
                None if is_constant(&ident.ident.to_string()) => {
                    let path = &ident.ident;
                    let constant = self.constant(&syn::parse_quote!(#path));
                    Ok(format!("{} == {}", value.cpp, constant.cpp))
                }
                None => Ok(String::from("true")),
            },
            Pat::Paren(paren) => self.pattern_test(&paren.pat, value),
            Pat::Or(or) => {
                let cases = or.cases.iter().map(|case| {
                    if binds(case) {
                        return Err(Error::new(case.span(), "a name in a pattern with `|` has no device code; bind the value before the `match`"));
                    }
                    self.pattern_test(case, value)
                });
                let cases: Vec<String> = cases.collect::<Result<_>>()?;
                Ok(format!("({})", cases.join(" || ")))
            }
            Pat::Range(range) => {
                let mut tests = Vec::new();
                if let Some(start) = &range.start {
                    let start = self.bound(start, value)?;
                    tests.push(format!("{} >= {start}", value.cpp));
                }
                if let Some(end) = &range.end {
                    let end = self.bound(end, value)?;
                    let operator = if matches!(range.limits, RangeLimits::Closed(_)) { "<=" } else { "<" };
                    tests.push(format!("{} {operator} {end}", value.cpp));
                }
                Ok(format!("({})", tests.join(" && ")))
            }
            Pat::Lit(literal) => {
                let bound = self.bound(&Expr::Lit(literal.clone()), value)?;
                Ok(format!("{} == {bound}", value.cpp))
            }
            Pat::Path(path) => {
                let bound = self.bound(&Expr::Path(path.clone()), value)?;
                Ok(format!("{} == {bound}", value.cpp))
            }
            other => Err(refuse::pattern(other)),
        }
    }

    /// Translates a literal or constant in a pattern.
    fn bound(&mut self, expr: &Expr, value: &Value) -> Result<String> {
        let bound = self.value(expr)?;
        self.types.unify(&value.ty, &bound.ty);
        Ok(bound.cpp)
    }

    fn bind(&mut self, pattern: &Pat, value: &Value) {
        match pattern {
            Pat::Ident(ident) if ident.subpat.is_some() || !is_constant(&ident.ident.to_string()) => {
                let cpp = self.declare(&ident.ident.to_string(), value.ty.clone(), false);
                self.emit(&format!("{} {cpp} = {};", value.ty.text(), value.cpp));
            }
            Pat::Paren(paren) => self.bind(&paren.pat, value),
            _ => {}
        }
    }

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
            let span = label.map_or_else(proc_macro2::Span::call_site, |label| label.span());
            return Err(Error::new(span, "a labelled block has no device code; label a loop"));
        };
        if let Some(value) = value {
            let value = self.value(value)?;
            self.store(&value, target.as_ref());
        }
        self.emit(&format!("goto {keyword}_{id};"));
        Ok(Value::never())
    }

    pub fn return_from(&mut self, value: Option<&Expr>) -> Result<Value> {
        match value {
            Some(value) => self.tail(value)?,
            None => self.emit("return;"),
        }
        Ok(Value::never())
    }
}

/// Whether an identifier in a pattern is a constant. The CPU's copy of the function makes sure that every other one is not.
pub fn is_constant(name: &str) -> bool {
    name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase)
}

fn binds(pattern: &Pat) -> bool {
    matches!(pattern, Pat::Ident(ident) if ident.subpat.is_some() || !is_constant(&ident.ident.to_string()))
}

/// Returns the last name and the argument of a call with one argument.
fn single_argument(expr: &Expr) -> Option<(String, &Expr)> {
    let Expr::Call(call) = expr else { return None };
    let Expr::Path(path) = &*call.func else { return None };
    let mut arguments = call.args.iter();
    let argument = arguments.next().filter(|_| call.args.len() == 1)?;
    Some((path.path.segments.last()?.ident.to_string(), argument))
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
