//! The derive's output: the `Message` impl, serde's impls and the record layout.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{GenericParam, Result, parse_quote};

use crate::input::Input;
use crate::paths::message_module;
use crate::{record, serde_impl};

/// Returns the whole output of the derive.
pub fn expand(input: &Input, published: &str) -> Result<TokenStream> {
    let module = message_module(published)?;
    let message = message_impl(input, &module);
    let serde =
        if cfg!(feature = "encode") { serde_impl::expand(input, &module)? } else { TokenStream::new() };
    let record = record::expand(input, &module)?;
    // A block, so that helper items do not leak into the user's scope.
    Ok(quote! {
        const _: () = {
            #message
            #serde
            #record
        };
    })
}

/// Returns the `Message` impl. The name of a generic type contains the names of its arguments, so `Pair<u8>` and `Pair<u16>` differ.
fn message_impl(input: &Input, module: &TokenStream) -> TokenStream {
    let ident = &input.item.ident;
    let name = &input.name;
    let mut generics = input.item.generics.clone();
    let mut arguments = Vec::new();
    for parameter in &mut generics.params {
        match parameter {
            GenericParam::Type(parameter) => {
                parameter.bounds.push(parse_quote!(#module::Message));
                let ident = &parameter.ident;
                arguments.push(quote!(.append(<#ident as #module::Message>::TYPE_NAME)));
            }
            GenericParam::Const(parameter) => {
                let ident = &parameter.ident;
                arguments.push(quote!(.append_number(#ident as u128)));
            }
            GenericParam::Lifetime(_) => {}
        }
    }
    let type_name = if arguments.is_empty() {
        quote!(#name)
    } else {
        let mut parts = arguments.into_iter();
        let first = parts.next();
        quote! {
            const { &#module::__private::TypeName::new(#name).append("<") #first #(.append(", ") #parts)* .append(">") }.as_str()
        }
    };
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics #module::Message for #ident #ty_generics #where_clause {
            const TYPE_NAME: &'static str = #type_name;
        }
    }
}
