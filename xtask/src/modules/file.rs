//! What one source file defines, re-exports and uses.

use std::collections::{BTreeMap, BTreeSet};

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, ItemMod, ItemUse, Meta, Token, UseTree};

/// A path as it stands in the source, such as `["crate", "memory", "Pool"]`.
pub type PathSegments = Vec<String>;

/// One module that has a file of its own. Modules that are written inline belong to the file around them.
#[derive(Debug, Default)]
pub struct ModuleFile {
    /// Child modules with a file of their own (`mod x;`).
    pub children: BTreeSet<String>,
    /// Names that the file brings into scope with `use`, and the paths they stand for. `pub use` is among them.
    pub aliases: BTreeMap<String, PathSegments>,
    /// Names of `aliases` that are only re-exported (`pub use child::X`).
    pub reexports: BTreeSet<String>,
    /// Modules whose items are imported with `*`.
    pub globs: Vec<PathSegments>,
    /// Names of items that are defined here.
    pub items: BTreeSet<String>,
    /// Paths of more than one segment in the code.
    pub paths: BTreeSet<PathSegments>,
}

impl ModuleFile {
    /// Reads a parsed file, without its tests.
    pub fn read(file: &File) -> Self {
        let mut module = Self::default();
        module.read_items(&file.items);
        let mut paths = Paths { module: &mut module };
        for item in file.items.iter().filter(|item| !is_test(attributes(item))) {
            paths.visit_item(item);
        }
        module
    }

    fn read_items(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(module) if module.content.is_none() => {
                    self.children.insert(module.ident.to_string());
                }
                Item::Mod(ItemMod { content: Some((_, inner)), ident, .. }) => {
                    self.items.insert(ident.to_string());
                    self.read_items(inner);
                }
                Item::Use(item) => self.read_use(item),
                _ => self.items.extend(name_of(item)),
            }
        }
    }

    fn read_use(&mut self, item: &ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.read_use_tree(&mut Vec::new(), &item.tree, is_public);
    }

    fn read_use_tree(&mut self, prefix: &mut PathSegments, tree: &UseTree, is_public: bool) {
        let mut add = |name: String, path: PathSegments| {
            if is_public {
                self.reexports.insert(name.clone());
            }
            self.aliases.insert(name, path);
        };
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.read_use_tree(prefix, &path.tree, is_public);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = prefix.last() {
                    add(last.clone(), prefix.clone());
                }
            }
            UseTree::Name(name) => add(name.ident.to_string(), joined(prefix, &name.ident.to_string())),
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" {
                    prefix.clone()
                } else {
                    joined(prefix, &rename.ident.to_string())
                };
                add(rename.rename.to_string(), path);
            }
            UseTree::Glob(_) => self.globs.push(prefix.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use_tree(prefix, tree, is_public);
                }
            }
        }
    }
}

fn joined(prefix: &[String], last: &str) -> PathSegments {
    prefix.iter().cloned().chain([last.to_owned()]).collect()
}

/// Collects the paths of a file's code.
struct Paths<'a> {
    module: &'a mut ModuleFile,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    // Declarations are read by `read_use`.
    fn visit_item_use(&mut self, _: &'ast ItemUse) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            self.module.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

/// Whether an item is compiled for tests only: `cfg(test)`, or `cfg(all(..))` with `test` among its conditions.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            list.parse_args::<Meta>().is_ok_and(|condition| requires_test(&condition))
        }
        _ => false,
    })
}

fn requires_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|conditions| conditions.iter().any(requires_test)),
        _ => false,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
