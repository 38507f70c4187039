//! Input of the derive: the type and its `#[message(...)]` attributes.

use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, GenericParam, LitStr, Path, Result};

/// A type with `#[derive(Message)]`.
pub struct Input {
    pub item: DeriveInput,
    /// The stable name: that of the attribute, or the type's identifier.
    pub name: LitStr,
    /// Whether to implement serde's traits.
    pub serde: bool,
    /// The path `record` in `#[message(record)]`, if present.
    pub record: Option<Path>,
}

impl Input {
    /// Reads the attributes, and rejects types that cannot be messages.
    pub fn new(item: DeriveInput) -> Result<Self> {
        if let Data::Union(data) = &item.data {
            return Err(Error::new_spanned(
                data.union_token,
                format!(
                    "deriving Message: the union `{}` has no tag for its valid field; \
                     use an enum, or a struct with one field per case",
                    item.ident
                ),
            ));
        }
        for parameter in &item.generics.params {
            if let GenericParam::Lifetime(lifetime) = parameter {
                return Err(Error::new_spanned(
                    lifetime,
                    format!(
                        "deriving Message: `{}` borrows, but a message outlives its sender; \
                         use owned data (`String`, `Vec<_>`, `Arc<_>`)",
                        item.ident
                    ),
                ));
            }
        }
        let mut input = Self {
            name: LitStr::new(&item.ident.unraw().to_string(), item.ident.span()),
            serde: true,
            record: None,
            item,
        };
        input.read_attributes()?;
        Ok(input)
    }

    fn read_attributes(&mut self) -> Result<()> {
        for attribute in self.item.attrs.iter().filter(|attribute| attribute.path().is_ident("message")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    self.name = meta.value()?.parse()?;
                    if self.name.value().is_empty() {
                        return Err(Error::new_spanned(
                            &self.name,
                            "the name of a message type is empty; use at least one character",
                        ));
                    }
                } else if meta.path.is_ident("no_serde") {
                    self.serde = false;
                } else if meta.path.is_ident("record") {
                    self.record = Some(meta.path.clone());
                } else {
                    return Err(meta.error("expected `name = \"...\"`, `record` or `no_serde`"));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
