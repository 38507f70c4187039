//! The function as the CPU runs it: the user's text, with each operation that can fail, or whose result depends on the build profile, replaced
//! by a function of the runtime. Their types admit only numbers, which makes rustc refuse what has no device code.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{Arm, BinOp, Expr, Ident, ItemFn, Pat, UnOp, parse_quote, parse_quote_spanned};

use super::methods::is_number_method;
use super::syntax::{compound, is_constant, is_literal};
use super::types;

/// Rewrites a function.
pub fn rewrite(function: &mut ItemFn, device: &TokenStream, context: Option<&str>, checks_overflow: bool) {
    let arithmetic = if checks_overflow { quote!(checked) } else { quote!(wrapping) };
    let rewriter = Rewriter { device: device.clone(), arithmetic, context: context.map(str::to_owned) };
    { rewriter }.visit_block_mut(&mut function.block);
    // For method calls, which take arrays and references to arrays alike.
    let traits = parse_quote! {
        #[allow(unused_imports)]
        use #device::{Elements as _, ElementsMut as _, Scalar as _};
    };
    function.block.stmts.insert(0, traits);
    function.attrs.push(parse_quote!(#[allow(clippy::all, unused_parens, unused_braces)]));
}

struct Rewriter {
    device: TokenStream,
    arithmetic: TokenStream,
    context: Option<String>,
}

impl Rewriter {
    /// Returns the call of a function of the runtime. Its location is that of `span`.
    fn call(&self, span: Span, name: &str, arguments: &[&dyn ToTokens]) -> Expr {
        let name = Ident::new(name, span);
        let (device, arithmetic) = (respan(&self.device, span), respan(&self.arithmetic, span));
        parse_quote_spanned!(span=> #device::#arithmetic::#name(#(#arguments),*))
    }

    /// Rewrites a place that is assigned or borrowed mutably.
    fn mutable_place(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Paren(paren) => self.mutable_place(&mut paren.expr),
            Expr::Field(field) => self.mutable_place(&mut field.base),
            Expr::Unary(unary) if matches!(unary.op, UnOp::Deref(_)) => self.mutable_place(&mut unary.expr),
            Expr::Index(index) => {
                let span = index.span();
                self.mutable_place(&mut index.expr);
                self.visit_expr_mut(&mut index.index);
                let (base, at) = (&index.expr, &index.index);
                let call = self.call(span, "index_mut", &[&quote!(#base.elements_mut()), at]);
                *expr = parse_quote_spanned!(span=> (*#call));
            }
            other => self.visit_expr_mut(other),
        }
    }

    fn compound_assignment(&mut self, expr: &Expr) -> Option<Expr> {
        let Expr::Binary(binary) = expr else { return None };
        let op = compound(&binary.op)?;
        let (mut left, mut right) = (binary.left.clone(), binary.right.clone());
        let span = left.span();
        self.mutable_place(&mut left);
        self.visit_expr_mut(&mut right);
        let value = Ident::new("value", Span::mixed_site());
        let place = Ident::new("place", Span::mixed_site());
        let result = self.call(span, operator(&op)?, &[&quote!(*#place), &value]);
        Some(parse_quote_spanned! {span=> {
            let #value = #right;
            let #place = &mut #left;
            *#place = #result;
        }})
    }

    fn assignment(&mut self, expr: &Expr) -> Option<Expr> {
        let Expr::Assign(assign) = expr else { return None };
        let (mut left, mut right) = (assign.left.clone(), assign.right.clone());
        self.visit_expr_mut(&mut right);
        if let Expr::Path(_) | Expr::Infer(_) = &*left {
            return Some(parse_quote_spanned!(expr.span()=> #left = #right));
        }
        self.mutable_place(&mut left);
        let value = Ident::new("value", Span::mixed_site());
        Some(parse_quote_spanned! {expr.span()=> {
            let #value = #right;
            #left = #value;
        }})
    }

    fn method(&mut self, call: &syn::ExprMethodCall) -> Option<Expr> {
        let name = call.method.to_string();
        if let Expr::Path(path) = &*call.receiver
            && self.context.is_some()
            && path.path.get_ident().map(ToString::to_string) == self.context
        {
            return None;
        }
        let span = call.receiver.span();
        let mut receiver = (*call.receiver).clone();
        let mut arguments: Vec<Expr> = call.args.iter().cloned().collect();
        arguments.iter_mut().for_each(|argument| self.visit_expr_mut(argument));
        if name == "iter_mut" {
            self.mutable_place(&mut receiver);
            return Some(parse_quote_spanned!(span=> #receiver.iter_mut()));
        }
        self.visit_expr_mut(&mut receiver);
        if name == "step_by" {
            let step = self.call(call.args.first()?.span(), "step", &[arguments.first()?]);
            return Some(parse_quote_spanned!(span=> #receiver.step_by(#step)));
        }
        if name == "len" {
            return Some(self.call(span, "len", &[&quote!(#receiver.elements())]));
        }
        if name != "to_bits" && !is_number_method(&name) {
            return None;
        }
        // As in the user's text, the method may be called on a reference.
        let receiver = quote!(#receiver.device_value());
        let mut all: Vec<&dyn ToTokens> = vec![&receiver];
        all.extend(arguments.iter().map(|argument| argument as &dyn ToTokens));
        Some(self.call(span, &name, &all))
    }
}

impl VisitMut for Rewriter {
    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        if let Some(rewritten) = self.compound_assignment(expr).or_else(|| self.assignment(expr)) {
            *expr = rewritten;
            return;
        }
        if let Expr::MethodCall(call) = expr
            && let Some(rewritten) = self.method(call)
        {
            *expr = rewritten;
            return;
        }
        match expr {
            Expr::Reference(reference) if reference.mutability.is_some() => {
                self.mutable_place(&mut reference.expr);
                return;
            }
            Expr::ForLoop(repeat) => {
                if let Expr::Reference(reference) = &mut *repeat.expr
                    && reference.mutability.is_some()
                {
                    self.mutable_place(&mut reference.expr);
                } else {
                    self.visit_expr_mut(&mut repeat.expr);
                }
                self.visit_block_mut(&mut repeat.body);
                return;
            }
            _ => visit_mut::visit_expr_mut(self, expr),
        }
        let span = expr.span();
        let rewritten = match expr {
            Expr::Binary(binary) => operator(&binary.op)
                .map(|name| self.call(binary.left.span(), name, &[&binary.left, &binary.right])),
            Expr::Unary(unary) => match unary.op {
                UnOp::Neg(_) if !matches!(*unary.expr, Expr::Lit(_)) => {
                    Some(self.call(unary.expr.span(), "neg", &[&unary.expr]))
                }
                UnOp::Not(_) => Some(self.call(unary.expr.span(), "not", &[&unary.expr])),
                _ => None,
            },
            Expr::Index(index) => {
                let (base, at) = (&index.expr, &index.index);
                let call = self.call(span, "index", &[&quote!(#base.elements()), at]);
                Some(parse_quote_spanned!(span=> (*#call)))
            }
            Expr::Cast(cast) if !is_literal(&cast.expr) => {
                let value = self.call(span, "number", &[&cast.expr]);
                let ty = &cast.ty;
                Some(parse_quote_spanned!(span=> (#value as #ty)))
            }
            Expr::Call(call) => {
                if let (Expr::Path(path), Some(argument)) = (&*call.func, call.args.first_mut())
                    && is_conversion(path)
                {
                    *argument = self.call(span, "number", &[&*argument]);
                }
                None
            }
            _ => None,
        };
        if let Some(rewritten) = rewritten {
            *expr = rewritten;
        }
    }

    fn visit_arm_mut(&mut self, arm: &mut Arm) {
        visit_mut::visit_arm_mut(self, arm);
        bind_only(&mut arm.pat);
    }
}

/// Whether a call is `f32::from(x)` or the like.
fn is_conversion(path: &syn::ExprPath) -> bool {
    let mut segments = path.path.segments.iter().rev();
    segments.next().is_some_and(|last| last.ident == "from")
        && segments.next().is_some_and(|owner| types::scalar(&owner.ident.to_string()).is_some())
}

/// Makes a name in a pattern a new variable in any case. In the user's text it could be a constant, which the translation does not see.
fn bind_only(pattern: &mut Pat) {
    match pattern {
        Pat::Ident(ident) if ident.subpat.is_none() && !is_constant(&ident.ident.to_string()) => {
            ident.subpat = Some((Default::default(), Box::new(parse_quote!(_))));
        }
        Pat::Guard(guarded) => bind_only(&mut guarded.pat),
        Pat::Paren(paren) => bind_only(&mut paren.pat),
        _ => {}
    }
}

/// Returns the name of the function that replaces an operator.
fn operator(op: &BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::Add(_) => "add",
        BinOp::Sub(_) => "sub",
        BinOp::Mul(_) => "mul",
        BinOp::Div(_) => "div",
        BinOp::Rem(_) => "rem",
        BinOp::Shl(_) => "shl",
        BinOp::Shr(_) => "shr",
        BinOp::BitAnd(_) => "bitand",
        BinOp::BitOr(_) => "bitor",
        BinOp::BitXor(_) => "bitxor",
        BinOp::Eq(_) => "eq",
        BinOp::Ne(_) => "ne",
        BinOp::Lt(_) => "lt",
        BinOp::Le(_) => "le",
        BinOp::Gt(_) => "gt",
        BinOp::Ge(_) => "ge",
        _ => return None,
    })
}

fn respan(tokens: &TokenStream, span: Span) -> TokenStream {
    let tokens = tokens.clone().into_iter().map(|mut token| {
        token.set_span(span);
        token
    });
    let tokens: TokenStream = tokens.collect();
    quote_spanned!(span=> #tokens)
}
