//! Output for `#[message(record)]`: the record layout and its checks.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, Error, Field, Fields, Ident, LitStr, Path, Result, parenthesized, token};

use crate::input::Input;

/// Returns the impls of `Record`, `Plain` and `RecordMessage`, and the checks that make them sound; nothing without `#[message(record)]`.
pub fn expand(input: &Input, module: &TokenStream) -> Result<TokenStream> {
    let Some(attribute) = &input.record else { return Ok(TokenStream::new()) };
    let fields = check_shape(input, attribute)?;
    check_repr(&input.item.attrs, &input.item.ident)?;
    let c_name = c_name(&input.name)?;
    let names = fields.iter().map(|field| field_name(field)).collect::<Result<Vec<_>>>()?;

    let ident = &input.item.ident;
    let record = quote!(#module::record);
    let layouts = fields.iter().zip(&names).map(|(field, name)| field_layout(ident, field, name, &record));
    let checks = layout_checks(ident, &fields, &names, module);
    Ok(quote! {
        // SAFETY: the type is `repr(C)`. The checks below compile only if it has no padding, and `LAYOUT` compiles only if all fields are
        // `Plain` and so are records.
        #[automatically_derived]
        unsafe impl #record::Record for #ident {}

        // SAFETY: `LAYOUT` is computed from the type itself.
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

/// Checks that the type is a struct with named fields and without generic parameters, so that it has one C layout.
fn check_shape<'a>(input: &'a Input, attribute: &Path) -> Result<Vec<&'a Field>> {
    let ident = &input.item.ident;
    if !input.item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.item.generics,
            format!(
                "deriving a record: `{ident}` is generic, but a record has one layout; write a struct for each case"
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
            attribute,
            format!(
                "deriving a record: `{ident}` is not a struct with at least one named field; write it as such a struct"
            ),
        )),
    }
}

/// Requires `repr(C)` and rejects `packed`, because fields of packed structs cannot be borrowed.
fn check_repr(attributes: &[Attribute], ident: &Ident) -> Result<()> {
    let mut is_c = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("C") {
                is_c = true;
            } else if meta.path.is_ident("packed") {
                return Err(meta.error(format!(
                    "deriving a record: `{ident}` is packed; order its fields by decreasing alignment, or add explicit padding fields"
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
            "deriving a record: `{ident}` lacks `#[repr(C)]`, so the compiler may reorder its fields; add it"
        ),
    ))
}

/// Returns the struct's name in C.
fn c_name(name: &LitStr) -> Result<String> {
    let c_name: String =
        name.value().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    check_c_identifier(&c_name, name.span())?;
    Ok(c_name)
}

/// Returns the field's name, which is the same in Rust and in C.
fn field_name(field: &Field) -> Result<String> {
    let name = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
    check_c_identifier(&name, field.ident.span())?;
    Ok(name)
}

fn check_c_identifier(name: &str, span: Span) -> Result<()> {
    let problem = if C_KEYWORDS.contains(&name) {
        "is a keyword of C or C++"
    } else if !name.is_ascii() {
        "has non-ASCII characters"
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        "starts with a digit"
    } else {
        return Ok(());
    };
    Err(Error::new(
        span,
        format!("deriving a record: `{name}` {problem}, so it is not a name in the C struct; rename it"),
    ))
}

/// Returns one `FieldLayout`. The compiler shows the name of the helper function if the field is not `Plain`.
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

/// Returns compile-time checks that no field has size 0, that each field starts at the end of the previous one, and that the record ends
/// with the last field.
fn layout_checks(record: &Ident, fields: &[&Field], names: &[String], module: &TokenStream) -> TokenStream {
    let mut end_of_previous = quote!(0);
    let mut checks = TokenStream::new();
    for (field, name) in fields.iter().zip(names) {
        let Field { ident, ty, .. } = field;
        let size = quote!(::core::mem::size_of::<#ty>());
        let offset = quote!(::core::mem::offset_of!(#record, #ident));
        let empty = format!(
            "deriving a record: the field `{name}` of `{record}` has size 0, which C does not allow; remove it"
        );
        checks.extend(check(ident.span(), module, "assert_not_empty", &size, &empty));
        let location = format!("deriving a record: `{record}` has padding before its field `{name}`");
        checks.extend(check(
            ident.span(),
            module,
            "assert_no_padding",
            &quote!(#offset - (#end_of_previous)),
            &location,
        ));
        end_of_previous = quote!(#offset + #size);
    }
    let location = format!("deriving a record: `{record}` has padding at its end");
    let rest = quote!(::core::mem::size_of::<#record>() - (#end_of_previous));
    checks.extend(check(record.span(), module, "assert_no_padding", &rest, &location));
    checks
}

/// Returns a call of a const function of the `message` module; its compile error points at `span`.
fn check(span: Span, module: &TokenStream, function: &str, value: &TokenStream, text: &str) -> TokenStream {
    // The error points from the first token of the call to the last, so the tokens of the path must have the span too.
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

/// Keywords of C11 and C++20 that are identifiers in Rust, or raw identifiers (`r#...`).
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
