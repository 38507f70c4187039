//! Where the generated code finds the `message` module.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, Ident, Result};

/// The path of the `message` module in whichever of the two crates the user depends on, under whatever name.
///
/// Both crates have an `extern crate self`, so that their published names also work inside them.
pub fn message_module() -> Result<TokenStream> {
    for published in ["dotcompute", "dotcompute-core"] {
        let name = match crate_name(published) {
            Ok(FoundCrate::Itself) => published.replace('-', "_"),
            Ok(FoundCrate::Name(name)) => name,
            Err(_) => continue,
        };
        let name = Ident::new(&name, Span::call_site());
        return Ok(quote!(::#name::message));
    }
    Err(Error::new(
        Span::call_site(),
        "derive(Message) needs the crate `dotcompute`: run `cargo add dotcompute`",
    ))
}
