//! Features of the façade crate: each compiles alone, and without any the crate has few dependencies.

use std::collections::BTreeSet;

use crate::command::{Failure, Invocation};
use crate::workspace::{Workspace, parse};

const PACKAGE: &str = "dotcompute";

/// Greatest number of crates in the dependency tree without features: the façade itself and build-time crates included.
const MAX_CRATES: usize = 30;

/// Compiles the façade and its examples without features and with each feature alone, and counts its dependencies without features.
///
/// # Errors
///
/// When a combination does not compile, or the dependency tree has more than [`MAX_CRATES`] crates.
pub fn check(workspace: &Workspace) -> Result<(), Failure> {
    compile(workspace, None)?;
    for feature in features(workspace)? {
        compile(workspace, Some(&feature))?;
    }
    count_crates(workspace)
}

fn compile(workspace: &Workspace, feature: Option<&str>) -> Result<(), Failure> {
    println!("--- {}", feature.unwrap_or("no feature"));
    Invocation::cargo(["check", "--package", PACKAGE, "--lib", "--examples", "--no-default-features"])
        .args(feature.map(|feature| format!("--features={feature}")))
        .run(workspace)
}

/// The façade's features except `default`, in alphabetical order.
fn features(workspace: &Workspace) -> Result<Vec<String>, Failure> {
    let describe = Invocation::cargo(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata = parse(&describe, &describe.capture(workspace)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let features = packages
        .filter(|package| package["name"] == PACKAGE)
        .filter_map(|package| package["features"].as_object())
        .flat_map(|features| features.keys().filter(|name| *name != "default").cloned());
    let features: Vec<_> = features.collect();
    if features.is_empty() {
        return Err(Failure::Missing(format!("features of the package {PACKAGE}")));
    }
    Ok(features)
}

fn count_crates(workspace: &Workspace) -> Result<(), Failure> {
    let tree = Invocation::cargo(["tree", "--package", PACKAGE, "--no-default-features"]).args([
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let listing = tree.capture(workspace)?;
    let crates: BTreeSet<&str> = listing.lines().filter(|line| !line.is_empty()).collect();
    println!("--- {} crates without features, at most {MAX_CRATES}", crates.len());
    if crates.len() <= MAX_CRATES {
        return Ok(());
    }
    let problem = format!(
        "{} crates, expected at most {MAX_CRATES}; make a dependency optional: {}",
        crates.len(),
        crates.into_iter().collect::<Vec<_>>().join(", ")
    );
    Err(Failure::Output { command: tree.to_string(), problem })
}
