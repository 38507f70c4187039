//! Types of expressions, as far as the translation needs them.
//!
//! rustc has the types; a macro sees only names. Most types are therefore C++ type expressions, which the C++ compiler resolves: the type of
//! `order.price` is "the type of the field `price` of `Order`". Only literals without a suffix need inference: each has a type variable,
//! which is unified as in rustc, and defaults to `i32` or `f64`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Error, Expr, Result, Type};

use super::text::{self, Holes};

/// The type of an expression.
#[derive(Clone, Debug)]
pub enum Ty {
    /// A type variable.
    Variable(usize),
    /// A C++ type.
    Cpp(String),
    /// An array, with its length as C++.
    Array(Box<Ty>, String),
    /// `()`.
    Unit,
    /// The type of an expression that does not return.
    Never,
}

impl Ty {
    pub fn cpp(name: &str) -> Self {
        Self::Cpp(name.to_owned())
    }

    /// Returns the type as C++. Type variables are marks.
    pub fn text(&self) -> String {
        match self {
            Self::Variable(id) => text::variable(*id),
            Self::Cpp(name) => name.clone(),
            Self::Array(element, len) => format!("dc::rust::Array<{}, {len}>", element.text()),
            Self::Unit | Self::Never => String::from("void"),
        }
    }
}

/// What a type variable stands for, if nothing else says so.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Any,
    Integer,
    Float,
}

/// The type variables of one function.
#[derive(Default)]
pub struct Types(Vec<(Kind, Option<Ty>)>);

impl Types {
    pub fn fresh(&mut self, kind: Kind) -> Ty {
        self.0.push((kind, None));
        Ty::Variable(self.0.len() - 1)
    }

    /// Follows bound variables.
    pub fn resolve(&self, ty: &Ty) -> Ty {
        let mut ty = ty;
        while let Ty::Variable(id) = ty {
            match &self.0[*id].1 {
                Some(bound) => ty = bound,
                None => break,
            }
        }
        ty.clone()
    }

    /// Makes two types equal, as far as they have variables. That they are equal otherwise has been checked by rustc.
    pub fn unify(&mut self, one: &Ty, other: &Ty) {
        match (self.resolve(one), self.resolve(other)) {
            (Ty::Variable(a), Ty::Variable(b)) => {
                if a != b {
                    if self.0[b].0 == Kind::Any {
                        self.0[b].0 = self.0[a].0;
                    }
                    self.0[a].1 = Some(Ty::Variable(b));
                }
            }
            (Ty::Unit | Ty::Never, _) | (_, Ty::Unit | Ty::Never) => {}
            (Ty::Variable(id), ty) | (ty, Ty::Variable(id)) => self.0[id].1 = Some(ty),
            (Ty::Array(a, _), Ty::Array(b, _)) => self.unify(&a, &b),
            (Ty::Array(element, _), Ty::Cpp(name)) | (Ty::Cpp(name), Ty::Array(element, _)) => {
                self.unify(&element, &element_of(&name));
            }
            (Ty::Cpp(_), Ty::Cpp(_)) => {}
        }
    }

    /// Returns the type of an element of an array; `None` if the type is not known yet.
    pub fn element(&self, ty: &Ty) -> Option<Ty> {
        match self.resolve(ty) {
            Ty::Array(element, _) => Some(*element),
            Ty::Cpp(name) => Some(element_of(&name)),
            _ => None,
        }
    }

    /// Returns the C++ text of a variable at the end of the function.
    pub fn name(&self, id: usize) -> String {
        match self.resolve(&Ty::Variable(id)) {
            Ty::Variable(id) if self.0[id].0 == Kind::Float => String::from("double"),
            Ty::Variable(_) => String::from("int32_t"),
            ty => text::replace_variables(&ty.text(), |id| self.name(id)),
        }
    }
}

fn element_of(name: &str) -> Ty {
    Ty::Cpp(format!("dc::rust::Element<{name}>"))
}

/// The scalar types, and their names in C++.
const SCALARS: [(&str, &str); 13] = [
    ("bool", "bool"),
    ("u8", "uint8_t"),
    ("u16", "uint16_t"),
    ("u32", "uint32_t"),
    ("u64", "uint64_t"),
    ("usize", "uint64_t"),
    ("i8", "int8_t"),
    ("i16", "int16_t"),
    ("i32", "int32_t"),
    ("i64", "int64_t"),
    ("isize", "int64_t"),
    ("f32", "float"),
    ("f64", "double"),
];

/// Returns the C++ name of a scalar type.
pub fn scalar(name: &str) -> Option<&'static str> {
    SCALARS.iter().find(|(rust, _)| *rust == name).map(|(_, cpp)| *cpp)
}

/// Returns the C++ name of a type that is a scalar.
pub fn scalar_type(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Path(path) => path.path.get_ident().and_then(|ident| scalar(&ident.to_string())),
        Type::Paren(inner) => scalar_type(&inner.elem),
        _ => None,
    }
}

/// Translates a type without references.
pub fn translate(ty: &Type, holes: &mut Holes) -> Result<Ty> {
    if let Some(name) = scalar_type(ty) {
        return Ok(Ty::cpp(name));
    }
    match ty {
        Type::Paren(inner) => translate(&inner.elem, holes),
        Type::Array(array) => {
            let element = translate(&array.elem, holes)?;
            Ok(Ty::Array(Box::new(element), length(&array.len, holes)))
        }
        Type::Path(path)
            if path.path.get_ident().is_some_and(|name| REFUSED_SCALARS.contains(&&*name.to_string())) =>
        {
            Err(Error::new_spanned(
                ty,
                "a device handler has no `char`, `str`, `String` or 128-bit integers; use `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, or an array of `u8`",
            ))
        }
        Type::Path(path) if path.path.segments.iter().any(|segment| !segment.arguments.is_none()) => {
            Err(Error::new_spanned(
                ty,
                "a device handler has no generic types; use a number, an array, or a `#[message(record)]` struct",
            ))
        }
        Type::Path(_) => Ok(Ty::Cpp(holes.add(quote!(unit.type_name::<#ty>())))),
        Type::Tuple(tuple) if tuple.elems.is_empty() => Ok(Ty::Unit),
        Type::Tuple(_) => {
            Err(Error::new_spanned(ty, "a device handler has no tuples; use a `#[message(record)]` struct"))
        }
        Type::Infer(_) => {
            Err(Error::new_spanned(ty, "write the type here: the translation to device code does not see it"))
        }
        Type::Reference(_) | Type::Slice(_) => Err(Error::new_spanned(
            ty,
            "a reference or slice may only be a parameter of a `#[device_fn]`, or bound by `let name = &place`; use an array and an index",
        )),
        _ => Err(Error::new_spanned(
            ty,
            "this type has no device code; use a number, `bool`, an array, or a `#[message(record)]` struct",
        )),
    }
}

const REFUSED_SCALARS: [&str; 6] = ["char", "str", "String", "u128", "i128", "Vec"];

/// Returns the length of an array as C++. rustc evaluates it.
pub fn length(len: &Expr, holes: &mut Holes) -> String {
    let value: TokenStream = quote::quote_spanned!(len.span()=> unit.length(#len));
    holes.add(value)
}

/// A parameter's type, translated.
pub struct Parameter {
    pub ty: Ty,
    /// Declaration of its type in C++, with `&` for references.
    pub declared: String,
    pub is_reference: bool,
}

/// Translates the type of a parameter of a `#[device_fn]`.
pub fn parameter(ty: &Type, holes: &mut Holes) -> Result<Parameter> {
    let Type::Reference(reference) = ty else {
        let ty = translate(ty, holes)?;
        return Ok(Parameter { declared: ty.text(), ty, is_reference: false });
    };
    let is_mutable = reference.mutability.is_some();
    let qualifier = if is_mutable { "" } else { "const " };
    if let Type::Slice(slice) = &*reference.elem {
        let element = translate(&slice.elem, holes)?.text();
        let declared = format!("dc::rust::Slice<{qualifier}{element}>");
        return Ok(Parameter { ty: Ty::Cpp(declared.clone()), declared, is_reference: true });
    }
    let ty = translate(&reference.elem, holes)?;
    Ok(Parameter { declared: format!("{qualifier}{} &", ty.text()), ty, is_reference: true })
}
