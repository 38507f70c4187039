//! Path of the `message` module in generated code.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Ident, Result};

/// Returns the path of the `message` module for users of the crate `published`.
///
/// Both crates that re-export the derive have an `extern crate self`, so their published names also resolve inside them.
#[cfg(not(feature = "renamed-crate"))]
pub fn message_module(published: &str) -> Result<TokenStream> {
    module(published, "message")
}

/// Returns the path of a module of the crate `published`.
#[cfg(not(feature = "renamed-crate"))]
pub fn module(published: &str, module: &str) -> Result<TokenStream> {
    Ok(path(&published.replace('-', "_"), module))
}

/// Returns the path of the `message` module in the crate that the user depends on, under its name in the user's Cargo.toml.
#[cfg(feature = "renamed-crate")]
pub fn message_module(published: &str) -> Result<TokenStream> {
    module(published, "message")
}

/// Returns the path of a module of the crate that the user depends on.
#[cfg(feature = "renamed-crate")]
pub fn module(_published: &str, module: &str) -> Result<TokenStream> {
    use proc_macro_crate::{FoundCrate, crate_name};

    for published in ["dotcompute", "dotcompute-core"] {
        match crate_name(published) {
            // Both crates have an `extern crate self`, so their published names also resolve inside them.
            Ok(FoundCrate::Itself) => return Ok(path(&published.replace('-', "_"), module)),
            Ok(FoundCrate::Name(name)) => return Ok(path(&name, module)),
            Err(_) => {}
        }
    }
    Err(syn::Error::new(
        Span::call_site(),
        "this macro needs the crate `dotcompute`: run `cargo add dotcompute`",
    ))
}

fn path(crate_name: &str, module: &str) -> TokenStream {
    let [name, module] = [crate_name, module].map(|name| Ident::new(name, Span::call_site()));
    quote!(::#name::#module)
}
