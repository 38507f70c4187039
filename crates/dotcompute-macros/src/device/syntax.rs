//! Questions about the user's syntax that need no translation.

use syn::spanned::Spanned;
use syn::{BinOp, Expr, Lit, UnOp};

/// Whether an identifier in a pattern is a constant. The CPU's copy of the function makes sure that every other one is not.
pub fn is_constant(name: &str) -> bool {
    name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase)
}

/// Whether an expression is a number, with or without a minus.
pub fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(_) => true,
        Expr::Paren(paren) => is_literal(&paren.expr),
        Expr::Unary(unary) => matches!(unary.op, UnOp::Neg(_)) && is_literal(&unary.expr),
        _ => false,
    }
}

/// Returns the operator of a compound assignment.
pub fn compound(op: &BinOp) -> Option<BinOp> {
    let span = op.span();
    let token: BinOp = match op {
        BinOp::AddAssign(_) => BinOp::Add(syn::token::Plus(span)),
        BinOp::SubAssign(_) => BinOp::Sub(syn::token::Minus(span)),
        BinOp::MulAssign(_) => BinOp::Mul(syn::token::Star(span)),
        BinOp::DivAssign(_) => BinOp::Div(syn::token::Slash(span)),
        BinOp::RemAssign(_) => BinOp::Rem(syn::token::Percent(span)),
        BinOp::BitXorAssign(_) => BinOp::BitXor(syn::token::Caret(span)),
        BinOp::BitAndAssign(_) => BinOp::BitAnd(syn::token::And(span)),
        BinOp::BitOrAssign(_) => BinOp::BitOr(syn::token::Or(span)),
        BinOp::ShlAssign(_) => BinOp::Shl(syn::Token![<<](span)),
        BinOp::ShrAssign(_) => BinOp::Shr(syn::Token![>>](span)),
        _ => return None,
    };
    Some(token)
}

/// Whether an expression may change memory that another expression reads.
pub fn has_effects(expr: &Expr) -> bool {
    struct Effects(bool);
    impl<'a> syn::visit::Visit<'a> for Effects {
        fn visit_expr(&mut self, expr: &'a Expr) {
            self.0 |= match expr {
                Expr::Binary(binary) => compound(&binary.op).is_some(),
                Expr::Assign(_)
                | Expr::Call(_)
                | Expr::Block(_)
                | Expr::If(_)
                | Expr::Match(_)
                | Expr::Loop(_) => true,
                _ => false,
            };
            syn::visit::visit_expr(self, expr);
        }
    }
    let mut effects = Effects(false);
    syn::visit::Visit::visit_expr(&mut effects, expr);
    effects.0
}

/// Whether a literal is a float.
pub fn is_float_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(literal) => matches!(literal.lit, Lit::Float(_)),
        Expr::Paren(paren) => is_float_literal(&paren.expr),
        Expr::Unary(unary) => is_float_literal(&unary.expr),
        _ => false,
    }
}
