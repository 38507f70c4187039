//! Output for serde: the `Serialize` and `Deserialize` impls.
//!
//! serde's own derives generate them for a private copy of the type, the *shadow* (serde calls this a remote derive). They therefore
//! support every `#[serde(...)]` attribute, and the user's crate needs no dependency on serde.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Field, Fields, GenericParam, Generics, Ident, LitStr, Result,
    Token, Type, Visibility, parenthesized, parse_quote, token,
};

use crate::input::Input;

/// Reserved keys of a message's map. They repeat those of `dotcompute-core/src/message/keys.rs`; change both together.
const RESERVED: [&str; 4] = ["__type__", "message_id", "priority", "correlation_id"];

/// Returns the two impls; nothing with `#[message(no_serde)]`.
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

    let serialize = with_bound(&input.item.generics, &quote!(#serde::Serialize));
    let (write_generics, _, _) = serialize.split_for_impl();
    let mut deserialize = with_bound(&input.item.generics, &quote!(#serde::Deserialize<'de>));
    deserialize.params.insert(0, parse_quote!('de));
    let (read_generics, _, _) = deserialize.split_for_impl();
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

/// Returns the shadow: a copy of the type with serde's derives and the type's serde attributes.
fn shadow(item: &DeriveInput, module: &TokenStream, serde: &TokenStream) -> DeriveInput {
    let mut shadow = item.clone();
    shadow.ident = Ident::new("__Shadow", item.ident.span());
    shadow.vis = Visibility::Inherited;
    retain_serde(&mut shadow.attrs);
    // serde adds the generic arguments to the name of the remote type.
    let remote = literal(&item.ident);
    let serde_path = literal(serde);
    let mut attributes: Vec<Attribute> = vec![
        parse_quote!(#[derive(#serde::Serialize, #serde::Deserialize)]),
        parse_quote!(#[serde(crate = #serde_path, remote = #remote)]),
        parse_quote!(#[allow(dead_code, clippy::all, clippy::pedantic)]),
    ];
    let types: Vec<_> = item.generics.type_params().map(|parameter| &parameter.ident).collect();
    if !types.is_empty() && find_word(&item.attrs, "bound").is_none() {
        // The same bounds as on the impls above. serde cannot infer them for array fields, whose element type it does not see.
        let write = literal(quote!(#(#types: #serde::Serialize),*));
        let read = literal(quote!(#(#types: #serde::Deserialize<'de>),*));
        attributes.push(parse_quote!(#[serde(bound(serialize = #write, deserialize = #read))]));
    }
    shadow.attrs.splice(0..0, attributes);
    match &mut shadow.data {
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| shadow_field(field, module)),
        Data::Enum(data) => {
            for variant in &mut data.variants {
                retain_serde(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| shadow_field(field, module));
            }
        }
        Data::Union(_) => {}
    }
    shadow
}

/// Retains serde's attributes of a field. An array field gets `serialize_with` and `deserialize_with`, because serde supports only
/// short arrays.
fn shadow_field(field: &mut Field, module: &TokenStream) {
    retain_serde(&mut field.attrs);
    let overriding =
        ["with", "serialize_with", "deserialize_with", "skip", "skip_serializing", "skip_deserializing"];
    if !matches!(field.ty, Type::Array(_))
        || overriding.iter().any(|word| find_word(&field.attrs, word).is_some())
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

/// Converts code to a string literal, as serde's attributes expect it.
fn literal(code: impl ToTokens) -> LitStr {
    LitStr::new(&code.to_token_stream().to_string(), Span::call_site())
}

fn retain_serde(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| attribute.path().is_ident("serde"));
}

/// Returns the generics with this bound on every type parameter.
fn with_bound(generics: &Generics, bound: &TokenStream) -> Generics {
    let mut generics = generics.clone();
    for parameter in &mut generics.params {
        if let GenericParam::Type(parameter) = parameter {
            parameter.bounds.push(parse_quote!(#bound));
        }
    }
    generics
}

/// Rejects attributes of the type whose output could not be decoded.
fn check_container(item: &DeriveInput) -> Result<()> {
    match find_word(&item.attrs, "untagged") {
        Some(word) => Err(Error::new_spanned(
            word,
            format!(
                "deriving Message: `{}` is untagged, so a receiver cannot tell its variants apart; \
                 remove this, or add a tag with `#[serde(tag = \"kind\")]`",
                item.ident
            ),
        )),
        None => Ok(()),
    }
}

/// Rejects fields that conflict with the message's map.
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
                    "deriving Message: the field `{name}` is flattened, but the keys of a message are the type's own fields; remove this"
                ),
            ));
        }
        let encoded =
            find_word(&field.attrs, "rename").is_none() && find_word(&field.attrs, "skip").is_none();
        if encoded && RESERVED.contains(&name.as_str()) {
            return Err(Error::new_spanned(
                ident,
                format!(
                    "deriving Message: the name of the field `{name}` is a reserved key; \
                     rename the field, or its key with `#[serde(rename = \"...\")]`"
                ),
            ));
        }
    }
    Ok(())
}

/// Finds a word such as `flatten` in `#[serde(...)]`. Invalid attributes are ignored here; serde reports them.
fn find_word(attributes: &[Attribute], word: &str) -> Option<TokenStream> {
    let mut found = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident(word) {
                found = Some(meta.path.to_token_stream());
            }
            skip_value(meta.input)
        });
    }
    found
}

fn skip_value(input: ParseStream) -> Result<()> {
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
