//! Import circles between the files of a crate.
//!
//! Two files that import from each other cannot be read, tested or moved one at a time: understanding either requires the other. This check
//! builds the graph of imports between the files of each crate and fails if it has a circle.
//!
//! What counts as an import, from file A to file B: a path in A (in a `use` or inline, outside `#[cfg(test)]`) that names an item defined in
//! B. Paths are followed through re-exports to the file that defines the item. What does not count: `mod b;`, `pub use b::Item` in the parent
//! of `b`, and paths in macro bodies, which are not parsed.

mod circle;
mod file;
mod graph;

#[cfg(test)]
use std::path::Path;

use crate::command::Failure;
use crate::workspace::Workspace;

use circle::Circle;
use graph::Graph;

/// Circles that stay, as the files that form one and the reason.
const ACCEPTED: [Accepted; 0] = [];

/// A circle that stays.
struct Accepted {
    /// The crate's folder in `crates/`.
    package: &'static str,
    /// The files of the circle, relative to the crate's `src/`, sorted.
    files: &'static [&'static str],
    /// Why it stays.
    reason: &'static str,
}

/// Checks every crate of the workspace, prints the number of files and imports of each, and describes every circle.
///
/// # Errors
///
/// [`Failure::Circles`] if a crate has a circle that is not in [`ACCEPTED`], or an accepted one no longer exists; an error if a file cannot be
/// read or parsed.
pub fn check(workspace: &Workspace) -> Result<(), Failure> {
    let mut count = 0;
    for (package, source) in workspace.library_sources()? {
        let graph = Graph::read(&source)?;
        let circles = graph.circles();
        println!(
            "{package}: {} files, {} imports, {} circles",
            graph.file_count(),
            graph.import_count(),
            circles.len()
        );
        for circle in &circles {
            match accepted(&package, circle) {
                Some(reason) => println!("  accepted: {}: {reason}", circle.files.join(", ")),
                None => {
                    println!("  {circle}");
                    count += 1;
                }
            }
        }
        count += stale(&package, &circles);
    }
    if count == 0 { Ok(()) } else { Err(Failure::Circles { count }) }
}

/// The reason why a circle stays, if it does.
fn accepted(package: &str, circle: &Circle) -> Option<&'static str> {
    let entry = ACCEPTED.iter().find(|entry| entry.package == package && entry.files == circle.files)?;
    Some(entry.reason)
}

/// Reports the entries of [`ACCEPTED`] for this crate that no circle needs any more, and returns their number.
fn stale(package: &str, circles: &[Circle]) -> usize {
    let unused = |entry: &&Accepted| {
        entry.package == package && !circles.iter().any(|circle| circle.files == entry.files)
    };
    let mut count = 0;
    for entry in ACCEPTED.iter().filter(unused) {
        println!("  no such circle any more, remove it from ACCEPTED: {}", entry.files.join(", "));
        count += 1;
    }
    count
}

/// The circles of the crate whose root file is `source`.
///
/// # Errors
///
/// When a file cannot be read or parsed.
#[cfg(test)]
fn circles_of(source: &Path) -> Result<Vec<Circle>, Failure> {
    Ok(Graph::read(source)?.circles())
}

#[cfg(test)]
mod tests;
