//! A circle of imports, and how it is shown.

use std::fmt;

/// Files of one crate, each of which imports from the next, and the last from the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    /// The files of the strongly connected component, relative to `src/`, sorted.
    pub files: Vec<String>,
    /// One import for each step of a shortest circle in the component.
    pub steps: Vec<Import>,
}

/// One import between two files, and the path in the source that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The file that imports.
    pub from: String,
    /// The file that defines the item.
    pub to: String,
    /// The path as written.
    pub path: String,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} files import from each other: {}", self.files.len(), self.files.join(", "))?;
        for Import { from, to, path } in &self.steps {
            writeln!(f, "    {from} uses `{path}`, defined in {to}")?;
        }
        Ok(())
    }
}
