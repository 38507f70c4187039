//! `#[derive(Message)]` for DotCompute.
//!
//! Use it through `dotcompute` (or `dotcompute_core::message`), where it is documented with examples that run.

mod input;
mod message;
mod paths;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct or an enum a message.
#[proc_macro_derive(Message, attributes(message, serde))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let item = parse_macro_input!(input as DeriveInput);
    input::Input::new(item)
        .and_then(|input| message::expand(&input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
