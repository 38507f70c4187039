//! The `Serialize` and `Deserialize` impls.
//!
//! serde's own derives write them, for a private copy of the type (serde calls that a remote derive). So they know every
//! `#[serde(...)]` attribute, and the user needs no dependency on serde.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Field, Fields, GenericParam, Generics, Ident, LitStr, Result,
    Token, Type, Visibility, parenthesized, parse_quote, token,
};

use crate::input::Input;

/// The keys of the message's map that are not fields.
const RESERVED: [&str; 4] = ["__type__", "message_id", "priority", "correlation_id"];

/// The two impls, or nothing if the user asked for none.
pub fn expand(input: &Input, module: &TokenStream) -> Result<TokenStream> {
    if !input.serde {
        return Ok(TokenStream::new());
    }
    check_container(&input.item)?;
    check_fields(&input.item)?;

    let serde = quote!(#module::__private::serde);
    let shadow = shadow(&input.item, module, &serde);
    let ident = &input.item.ident;
    let (_, ty_generics, where_clause) = input.item.generics.split_for_impl();
    let turbofish = ty_generics.as_turbofish();
    let shadow_ident = &shadow.ident;

    let writing = with_bound(&input.item.generics, &quote!(#serde::Serialize));
    let (write_generics, _, _) = writing.split_for_impl();
    let mut reading = with_bound(&input.item.generics, &quote!(#serde::Deserialize<'de>));
    reading.params.insert(0, parse_quote!('de));
    let (read_generics, _, _) = reading.split_for_impl();
    Ok(quote! {
        #shadow

        #[automatically_derived]
        impl #write_generics #serde::Serialize for #ident #ty_generics #where_clause {
            fn serialize<__S: #serde::Serializer>(&self, serializer: __S) -> ::core::result::Result<__S::Ok, __S::Error> {
                #shadow_ident #turbofish::serialize(self, serializer)
            }
        }

        #[automatically_derived]
        impl #read_generics #serde::Deserialize<'de> for #ident #ty_generics #where_clause {
            fn deserialize<__D: #serde::Deserializer<'de>>(
                deserializer: __D,
            ) -> ::core::result::Result<Self, __D::Error> {
                #shadow_ident #turbofish::deserialize(deserializer)
            }
        }
    })
}

/// The private copy: the same shape and the same serde attributes, with serde's derives.
fn shadow(item: &DeriveInput, module: &TokenStream, serde: &TokenStream) -> DeriveInput {
    let mut shadow = item.clone();
    shadow.ident = Ident::new("__Shadow", item.ident.span());
    shadow.vis = Visibility::Inherited;
    keep_serde(&mut shadow.attrs);
    // serde adds the generic arguments to the remote type.
    let remote = literal(&item.ident);
    let serde_path = literal(serde);
    let mut attributes: Vec<Attribute> = vec![
        parse_quote!(#[derive(#serde::Serialize, #serde::Deserialize)]),
        parse_quote!(#[serde(crate = #serde_path, remote = #remote)]),
        parse_quote!(#[allow(dead_code, clippy::all, clippy::pedantic)]),
    ];
    let types: Vec<_> = item.generics.type_params().map(|parameter| &parameter.ident).collect();
    if !types.is_empty() && find_word(&item.attrs, "bound").is_none() {
        // The same bounds as on the impls that call this, also where a field is an array, which hides its type from serde.
        let write = literal(quote!(#(#types: #serde::Serialize),*));
        let read = literal(quote!(#(#types: #serde::Deserialize<'de>),*));
        attributes.push(parse_quote!(#[serde(bound(serialize = #write, deserialize = #read))]));
    }
    shadow.attrs.splice(0..0, attributes);
    match &mut shadow.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| shadow_field(field, module)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                keep_serde(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| shadow_field(field, module));
            }
        }
        Data::Union(_) => {}
    }
    shadow
}

/// Keeps serde's attributes of a field. If it is an array, whose length may be beyond serde, we write and read it.
fn shadow_field(field: &mut Field, module: &TokenStream) {
    keep_serde(&mut field.attrs);
    let taken =
        ["with", "serialize_with", "deserialize_with", "skip", "skip_serializing", "skip_deserializing"];
    if !matches!(field.ty, Type::Array(_)) || taken.iter().any(|word| find_word(&field.attrs, word).is_some())
    {
        return;
    }
    let array = quote!(#module::__private::serde_array);
    let mut shape = quote!(#array::Element);
    let mut ty = &field.ty;
    while let Type::Array(dimension) = ty {
        shape = quote!(#array::Nested<#shape>);
        ty = &dimension.elem;
    }
    let write = literal(quote!(#array::serialize::<#shape, _, _>));
    let read = literal(quote!(#array::deserialize::<#shape, _, _>));
    field.attrs.push(parse_quote!(#[serde(serialize_with = #write, deserialize_with = #read)]));
}

/// Code as the text that serde's attributes want it in.
fn literal(code: impl ToTokens) -> LitStr {
    LitStr::new(&code.to_token_stream().to_string(), Span::call_site())
}

fn keep_serde(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| attribute.path().is_ident("serde"));
}

/// The generics with this bound on every type.
fn with_bound(generics: &Generics, bound: &TokenStream) -> Generics {
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(parse_quote!(#bound));
        }
    }
    generics
}

/// Refuses what would be written but could not be read back.
fn check_container(item: &DeriveInput) -> Result<()> {
    match find_word(&item.attrs, "untagged") {
        Some(word) => Err(Error::new_spanned(
            word,
            format!(
                "`{}` cannot be untagged: whoever reads the message must see which variant it is; \
                 remove this, or give it a tag, `#[serde(tag = \"kind\")]`",
                item.ident
            ),
        )),
        None => Ok(()),
    }
}

/// Refuses fields that do not fit into the message's map.
fn check_fields(item: &DeriveInput) -> Result<()> {
    let Data::Struct(data) = &item.data else { return Ok(()) };
    let Fields::Named(fields) = &data.fields else { return Ok(()) };
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let name = ident.unraw().to_string();
        if let Some(word) = find_word(&field.attrs, "flatten") {
            return Err(Error::new_spanned(
                word,
                format!(
                    "the field `{name}` cannot be flattened, because a message's keys are its type's own fields: remove this"
                ),
            ));
        }
        let written =
            find_word(&field.attrs, "rename").is_none() && find_word(&field.attrs, "skip").is_none();
        if written && RESERVED.contains(&name.as_str()) {
            return Err(Error::new_spanned(
                ident,
                format!(
                    "the field `{name}` has the name of a key that every message has; \
                     rename it, or only what is written: `#[serde(rename = \"...\")]`"
                ),
            ));
        }
    }
    Ok(())
}

/// Finds a word such as `flatten` in `#[serde(...)]`. Attributes that serde would refuse are left for serde to refuse.
fn find_word(attributes: &[Attribute], word: &str) -> Option<TokenStream> {
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident(word) {
                found = Some(meta.path.to_token_stream());
            }
            pass_over_value(meta.input)
        });
    }
    found
}

fn pass_over_value(input: ParseStream) -> Result<()> {
    if input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
        input.parse::<Expr>()?;
    } else if input.peek(token::Paren) {
        let inner;
        parenthesized!(inner in input);
        inner.parse::<TokenStream>()?;
    }
    Ok(())
}
