//! The record layout of `#[message(record)]`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, Error, Field, Fields, Ident, LitStr, Path, Result, parenthesized, token};

use crate::input::Input;

/// `Plain` and `RecordMessage`, and the checks that make them true; nothing if the user did not ask for a record.
pub fn expand(input: &Input, module: &TokenStream) -> Result<TokenStream> {
    let Some(asked) = &input.record else { return Ok(TokenStream::new()) };
    let fields = check_shape(input, asked)?;
    check_repr(&input.item.attrs, &input.item.ident)?;
    let c_name = c_name(&input.name)?;
    let names = fields.iter().map(|field| field_name(field)).collect::<Result<Vec<_>>>()?;

    let ident = &input.item.ident;
    let record = quote!(#module::record);
    let layouts = fields.iter().zip(&names).map(|(field, name)| field_layout(ident, field, name, &record));
    let checks = layout_checks(ident, &fields, &names, module);
    Ok(quote! {
        // SAFETY: the type is `repr(C)`; the checks below compile only if no byte lies outside its fields, and the layout's
        // constant only if all its fields are `Plain`, which are records.
        #[automatically_derived]
        unsafe impl #record::Record for #ident {}

        // SAFETY: the layout is made from the type itself.
        #[automatically_derived]
        unsafe impl #record::Plain for #ident {
            const TYPE: #record::PlainType = #record::PlainType::Record(&<Self as #record::RecordMessage>::LAYOUT);
        }

        #[automatically_derived]
        impl #record::RecordMessage for #ident {
            const LAYOUT: #record::RecordLayout = #record::RecordLayout {
                name: #c_name,
                size: ::core::mem::size_of::<#ident>(),
                align: ::core::mem::align_of::<#ident>(),
                fields: &[#(#layouts),*],
            };
        }

        #checks
    })
}

/// Only a struct with named fields and without parameters has one layout with names in it.
fn check_shape<'a>(input: &'a Input, asked: &Path) -> Result<Vec<&'a Field>> {
    let ident = &input.item.ident;
    if !input.item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.item.generics,
            format!(
                "the record `{ident}` cannot be generic, because devices need one layout: write a struct for each case"
            ),
        ));
    }
    let named = match &input.item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) if !fields.named.is_empty() => Some(&fields.named),
            _ => None,
        },
        Data::Enum(_) | Data::Union(_) => None,
    };
    match named {
        Some(fields) => Ok(fields.iter().collect()),
        None => Err(Error::new_spanned(
            asked,
            format!(
                "`{ident}` cannot be a record: only a struct with named fields, and with at least one, has a layout in C"
            ),
        )),
    }
}

/// Requires `repr(C)` and refuses `packed`, whose fields cannot be borrowed.
fn check_repr(attributes: &[Attribute], ident: &Ident) -> Result<()> {
    let mut is_c = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("C") {
                is_c = true;
            } else if meta.path.is_ident("packed") {
                return Err(meta.error(format!(
                    "the record `{ident}` cannot be packed: order its fields by falling alignment, or add explicit padding fields"
                )));
            }
            if meta.input.peek(token::Paren) {
                let inner;
                parenthesized!(inner in meta.input);
                inner.parse::<TokenStream>()?;
            }
            Ok(())
        })?;
    }
    if is_c {
        return Ok(());
    }
    Err(Error::new_spanned(
        ident,
        format!(
            "the record `{ident}` needs `#[repr(C)]`, because without it the compiler may reorder the fields"
        ),
    ))
}

/// The struct's name in C.
fn c_name(name: &LitStr) -> Result<String> {
    let c_name: String =
        name.value().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    check_c_identifier(&c_name, name.span())?;
    Ok(c_name)
}

/// The field's name, the same in Rust and in C.
fn field_name(field: &Field) -> Result<String> {
    let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
    check_c_identifier(&name, field.ident.span())?;
    Ok(name)
}

fn check_c_identifier(name: &str, span: Span) -> Result<()> {
    let problem = if C_KEYWORDS.contains(&name) {
        "is a keyword of C or C++"
    } else if !name.is_ascii() {
        "has letters beyond ASCII"
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        "starts with a digit"
    } else {
        return Ok(());
    };
    Err(Error::new(
        span,
        format!("`{name}` {problem}, so that it cannot stand in the record's C struct: rename it"),
    ))
}

/// One `FieldLayout`. The function is there for its name, which the compiler shows when the field is not `Plain`.
fn field_layout(record_ident: &Ident, field: &Field, name: &str, record: &TokenStream) -> TokenStream {
    let Field { ident, ty, .. } = field;
    let check = format_ident!("field_{}_is_plain_old_data", name);
    let plain_type = quote_spanned! {ty.span()=> #check::<#ty>() };
    quote! {
        {
            const fn #check<T: #record::Plain>() -> #record::PlainType {
                T::TYPE
            }
            #record::FieldLayout {
                name: #name,
                offset: ::core::mem::offset_of!(#record_ident, #ident),
                size: ::core::mem::size_of::<#ty>(),
                align: ::core::mem::align_of::<#ty>(),
                ty: #plain_type,
            }
        }
    }
}

/// Compile-time checks that no field is empty, that each begins where the one before ends, and that the record ends with
/// the last.
fn layout_checks(record: &Ident, fields: &[&Field], names: &[String], module: &TokenStream) -> TokenStream {
    let mut end_of_previous = quote!(0);
    let mut checks = TokenStream::new();
    for (field, name) in fields.iter().zip(names) {
        let Field { ident, ty, .. } = field;
        let size = quote!(::core::mem::size_of::<#ty>());
        let offset = quote!(::core::mem::offset_of!(#record, #ident));
        let empty = format!(
            "the record `{record}` has a field of size 0, which C does not have: remove its field `{name}`"
        );
        checks.extend(check(ident.span(), module, "assert_not_empty", &size, &empty));
        let place = format!("the record `{record}` has padding bytes before its field `{name}`");
        checks.extend(check(
            ident.span(),
            module,
            "assert_no_padding",
            &quote!(#offset - (#end_of_previous)),
            &place,
        ));
        end_of_previous = quote!(#offset + #size);
    }
    let place = format!("the record `{record}` has padding bytes at its end");
    let rest = quote!(::core::mem::size_of::<#record>() - (#end_of_previous));
    checks.extend(check(record.span(), module, "assert_no_padding", &rest, &place));
    checks
}

/// A check by one of the `message` module's constant functions, whose failure points at `span`.
fn check(span: Span, module: &TokenStream, function: &str, value: &TokenStream, text: &str) -> TokenStream {
    // The compiler points from the call's first token to its last, so the path in front must be at `span` too.
    let module: TokenStream = module
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect();
    let function = Ident::new(function, span);
    quote_spanned!(span=> const _: () = #module::__private::#function(#value, #text);)
}

/// Names that C11 or C++20 keep for themselves and Rust allows, or allows as `r#...`.
const C_KEYWORDS: [&str; 89] = [
    "alignas",
    "alignof",
    "and",
    "and_eq",
    "asm",
    "auto",
    "bitand",
    "bitor",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "char8_t",
    "char16_t",
    "char32_t",
    "class",
    "co_await",
    "co_return",
    "co_yield",
    "compl",
    "concept",
    "const",
    "const_cast",
    "consteval",
    "constexpr",
    "constinit",
    "continue",
    "decltype",
    "default",
    "delete",
    "do",
    "double",
    "dynamic_cast",
    "else",
    "enum",
    "explicit",
    "export",
    "extern",
    "false",
    "float",
    "for",
    "friend",
    "goto",
    "if",
    "inline",
    "int",
    "long",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "not",
    "not_eq",
    "nullptr",
    "operator",
    "or",
    "or_eq",
    "private",
    "protected",
    "public",
    "register",
    "reinterpret_cast",
    "requires",
    "restrict",
    "return",
    "short",
    "signed",
    "sizeof",
    "static",
    "static_assert",
    "static_cast",
    "struct",
    "switch",
    "template",
    "this",
    "thread_local",
    "throw",
    "true",
    "try",
    "typedef",
    "typeid",
    "typename",
    "union",
    "unsigned",
    "using",
    "virtual",
    "void",
    "volatile",
];
