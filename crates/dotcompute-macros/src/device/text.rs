//! Device text under construction: C++ with places that are filled later.
//!
//! A *hole* is filled by the user's program at launch, because only rustc knows the value: the C name of a struct, the value of a constant, a
//! line number. A *type variable* is filled at the end of the translation, when the types of all literals are known.

use proc_macro2::TokenStream;
use quote::quote;

const HOLE: [char; 2] = ['\u{E000}', '\u{E001}'];
const VARIABLE: [char; 2] = ['\u{E002}', '\u{E003}'];

/// The values that fill the holes of one function.
#[derive(Default)]
pub struct Holes(Vec<TokenStream>);

impl Holes {
    /// Adds an expression of type `String` and returns its mark in the text. It may use `unit`, a `&mut DeviceUnit`.
    pub fn add(&mut self, value: TokenStream) -> String {
        self.0.push(value);
        format!("{}{}{}", HOLE[0], self.0.len() - 1, HOLE[1])
    }

    /// Returns the statements that append `text` to the variable `text`.
    pub fn fill(&self, text: &str) -> TokenStream {
        let mut statements = TokenStream::new();
        for (index, part) in text.split(HOLE).enumerate() {
            if index % 2 == 0 {
                if !part.is_empty() {
                    statements.extend(quote!(text.push_str(#part);));
                }
            } else if let Some(value) = part.parse::<usize>().ok().and_then(|index| self.0.get(index)) {
                statements.extend(quote! {
                    let value: ::std::string::String = #value;
                    text.push_str(&value);
                });
            }
        }
        statements
    }
}

/// Returns the mark of a type variable.
pub fn variable(id: usize) -> String {
    format!("{}{id}{}", VARIABLE[0], VARIABLE[1])
}

/// Replaces the marks of type variables.
pub fn replace_variables(text: &str, mut name: impl FnMut(usize) -> String) -> String {
    let parts = text.split(VARIABLE).enumerate();
    parts
        .map(|(index, part)| match part.parse() {
            Ok(id) if index % 2 == 1 => name(id),
            _ => part.to_owned(),
        })
        .collect()
}
