//! Control flow: `if`, `match` and `return`.

use syn::spanned::Spanned;
use syn::{Error, Expr, ExprIf, ExprMatch, Pat, RangeLimits, Result};

use super::lower::{Lower, Returns, Value};
use super::refuse;
use super::syntax::is_constant;
use super::types::Ty;

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

    pub fn return_from(&mut self, value: Option<&Expr>) -> Result<Value> {
        match value {
            Some(value) => self.tail(value)?,
            None => self.emit("return;"),
        }
        Ok(Value::never())
    }
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
