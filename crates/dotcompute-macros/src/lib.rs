//! `#[derive(Message)]`, `#[device_handler]` and `#[device_fn]` for DotCompute.
//!
//! Use it through `dotcompute` or `dotcompute_core::message`, whose documentation has tested examples.

mod device;
mod input;
mod message;
mod paths;
mod record;
mod serde_impl;

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemFn, parse_macro_input};

/// Implements `Message` for a struct or an enum, with serde's traits (feature `encode`) and optionally the record layout.
///
/// | attribute | meaning |
/// | --- | --- |
/// | `#[message(name = "...")]` | the type's name in every process and language; without it, the type's identifier |
/// | `#[message(record)]` | plain old data with one layout on every device; needs `#[repr(C)]` and `Copy` |
/// | `#[message(no_serde)]` | no serde impls, because the type has its own or never leaves the process |
///
/// `#[serde(...)]` attributes are passed to serde's own derives, except `flatten` and `untagged`, which are errors.
#[proc_macro_derive(Message, attributes(message, serde))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input as DeriveInput), "dotcompute")
}

/// As [`Message`](derive_message), for users of the crate `dotcompute-core`.
#[proc_macro_derive(CoreMessage, attributes(message, serde))]
pub fn derive_core_message(input: TokenStream) -> TokenStream {
    expand(parse_macro_input!(input as DeriveInput), "dotcompute-core")
}

/// Expands the derive of `published`, the crate that re-exports it.
fn expand(item: DeriveInput, published: &str) -> TokenStream {
    input::Input::new(item)
        .and_then(|input| message::expand(&input, published))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a function the handler of ring kernels: the CPU runs it, and devices run its translation, with the same results.
///
/// `#[device_handler(unchecked)]`: overflow wraps instead of failing the message. See the module `device` of the runtime.
#[proc_macro_attribute]
pub fn device_handler(options: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemFn);
    device::expand(device::Attribute::Handler, options.into(), item, "dotcompute").into()
}

/// Makes a function one that device handlers and other device functions can call.
#[proc_macro_attribute]
pub fn device_fn(options: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemFn);
    device::expand(device::Attribute::Function, options.into(), item, "dotcompute").into()
}

/// As [`macro@device_handler`], for users of the crate `dotcompute-core`.
#[proc_macro_attribute]
pub fn core_device_handler(options: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemFn);
    device::expand(device::Attribute::Handler, options.into(), item, "dotcompute-core").into()
}

/// As [`macro@device_fn`], for users of the crate `dotcompute-core`.
#[proc_macro_attribute]
pub fn core_device_fn(options: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemFn);
    device::expand(device::Attribute::Function, options.into(), item, "dotcompute-core").into()
}
