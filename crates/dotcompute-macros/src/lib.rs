//! `#[derive(Message)]` for DotCompute.
//!
//! Use it through `dotcompute` (or `dotcompute_core::message`), where it is documented with examples that run.

mod input;
mod message;
mod paths;
mod record;
mod serde_impl;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Message` for a struct or an enum, with serde's traits and, on request, the record layout.
///
/// | attribute | meaning |
/// | --- | --- |
/// | `#[message(name = "...")]` | the type's name in every process and language; without it, the type's identifier |
/// | `#[message(record)]` | plain old data with one layout on every device; needs `#[repr(C)]` and `Copy` |
/// | `#[message(no_serde)]` | no serde impls: the type has its own, or never leaves the process |
///
/// `#[serde(...)]` attributes are passed on to serde's own derives, except `flatten` and `untagged`, which are refused.
#[proc_macro_derive(Message, attributes(message, serde))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let item = parse_macro_input!(input as DeriveInput);
    input::Input::new(item)
        .and_then(|input| message::expand(&input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
