//! The table of environment variables: complete, unambiguous, and the source of `docs/environment.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use dotcompute_core::environment::{VARIABLES, markdown};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The texts of all files below `folder` with this extension.
fn texts(folder: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(self::texts(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).unwrap();
            texts.push((path, text));
        }
    }
    texts
}

/// The Rust sources of every crate, without their integration tests.
fn rust_sources() -> Vec<(PathBuf, String)> {
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path().join("src"));
    crates.filter(|folder| folder.is_dir()).flat_map(|folder| texts(&folder, "rs")).collect()
}

/// The first argument of each call of one of `functions`, as it is written.
fn arguments<'a>(text: &'a str, functions: &[&str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for function in functions {
        for (at, _) in text.match_indices(function) {
            let rest = text[at + function.len()..].trim_start();
            found.push(rest[..rest.find([',', ')', ']']).unwrap_or(rest.len())].trim());
        }
    }
    found
}

fn quoted(argument: &str) -> Option<&str> {
    let quote = argument.chars().next().filter(|first| ['"', '\''].contains(first))?;
    argument[1..].split(quote).next()
}

/// The names and values of all string constants.
fn constants(sources: &[(PathBuf, String)]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut constants: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in sources.iter().flat_map(|(_, text)| text.lines()) {
        let Some((_, declaration)) = line.split_once("const ") else { continue };
        let Some((name, value)) = declaration.split_once(": &str = ") else { continue };
        constants.entry(name).or_default().extend(quoted(value));
    }
    constants
}

fn is_constant(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Whether a literal has the form of a variable of this workspace, of CUDA or of XDG.
fn looks_like_a_variable(literal: &str) -> bool {
    let prefixes = ["DOTCOMPUTE_", "PYDOTCOMPUTE_", "CUDA_", "XDG_"];
    is_constant(literal)
        && prefixes.iter().any(|prefix| literal.starts_with(prefix))
        && !literal.starts_with("CUDA_ERROR_")
}

fn names() -> BTreeSet<&'static str> {
    VARIABLES.iter().map(|variable| variable.name).collect()
}

#[test]
fn every_variable_that_rust_reads_or_sets_has_a_row() {
    let sources = rust_sources();
    let constants = constants(&sources);
    let names = names();
    let mut calls = 0;
    for (path, text) in &sources {
        for argument in arguments(text, &["env::var(", "env::var_os(", "env::set_var(", "env::remove_var("]) {
            let last = argument.rsplit("::").next().unwrap_or_default();
            let read: Vec<&str> = match quoted(argument) {
                Some(literal) => vec![literal],
                None if is_constant(last) => {
                    // A re-exported constant has no literal of its own: its row is that of the table's constant.
                    constants.get(last).into_iter().flatten().copied().collect()
                }
                // A parameter: the literals below cover its values.
                None => continue,
            };
            calls += 1;
            for name in read {
                assert!(names.contains(name), "{} reads {name}: add it to `VARIABLES`", path.display());
            }
        }
        for literal in text.split('"').filter(|literal| looks_like_a_variable(literal)) {
            assert!(names.contains(literal), "{} names {literal}: add it to `VARIABLES`", path.display());
        }
    }
    assert!(calls >= 8, "the scan found only {calls} calls: adapt it to the sources");
}

#[test]
fn every_variable_that_python_reads_or_sets_has_a_row() {
    let functions = ["environ.get(", "environ.setdefault(", "environ.pop(", "environ[", "getenv("];
    let names = names();
    let mut calls = 0;
    for (path, text) in texts(&root().join("pydotcompute"), "py") {
        for argument in arguments(&text, &functions) {
            let name = quoted(argument);
            let name = name.unwrap_or_else(|| panic!("{}: `{argument}` is not a literal", path.display()));
            assert!(names.contains(name), "{} reads {name}: add it to `VARIABLES`", path.display());
            calls += 1;
        }
    }
    assert!(calls >= 4, "the scan found only {calls} calls: adapt it to the sources");
}

#[test]
fn every_variable_that_a_page_names_has_a_row() {
    let names = names();
    let mut pages = texts(&root().join("docs"), "md");
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        pages.push((page.into(), fs::read_to_string(root().join(page)).unwrap()));
    }
    let mut found = 0;
    for (path, text) in &pages {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("DOTCOMPUTE_") || word.starts_with("PYDOTCOMPUTE_") {
                assert!(names.contains(word), "{} names {word}, which nothing reads", path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 10, "the scan found only {found} variables: adapt it to the pages");
}

#[test]
fn each_variable_has_one_row() {
    assert_eq!(names().len(), VARIABLES.len());
}

#[test]
fn the_page_is_the_rendered_table() {
    let path = root().join("docs/environment.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, markdown()).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    let advice = "run `UPDATE=1 cargo test -p dotcompute-core --test it environment`";
    assert!(page == markdown(), "docs/environment.md is stale; {advice}");
}
