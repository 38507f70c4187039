//! What the README, `CONTRIBUTING.md` and `docs` name exists: commands with their options, examples and files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The Markdown files that users read, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    fn add(folder: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            if path.is_dir() {
                add(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    add(&root().join("docs"), &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("the page is readable");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The code spans of a page, and the lines of its code blocks without their comments. Blocks of `text` are drawings.
fn code(page: &str) -> Vec<&str> {
    let mut code = Vec::new();
    let mut block = None;
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
        } else if let Some(language) = block {
            if language != "text" {
                code.push(line.split(" # ").next().unwrap_or(line).trim());
            }
        } else {
            code.extend(line.split('`').skip(1).step_by(2));
        }
    }
    code
}

/// The arguments of `dotcompute` in a command line that starts it, by name or with cargo.
fn arguments(command: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["dotcompute", ..] => Some(words[1..].to_vec()),
        // The workspace has one default program.
        ["cargo", "run", ..] if !words.contains(&"--example") => {
            let start = words.iter().position(|&word| word == "--")? + 1;
            Some(words[start..].to_vec())
        }
        _ => None,
    }
}

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dotcompute"));
    let output = command.args(arguments).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "`dotcompute {}` does not exist", arguments.join(" "));
    String::from_utf8(output.stdout).expect("the program writes UTF-8")
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let lines = list.expect("a list of commands").lines();
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_and_option_exists() {
    let mut checked = 0;
    for (path, text) in pages() {
        for command in code(&text) {
            // The program's name alone is not a command.
            let Some(arguments) = arguments(command).filter(|arguments| !arguments.is_empty()) else {
                continue;
            };
            let help = help(&arguments[..1]);
            for option in arguments.iter().filter(|argument| argument.starts_with("--")) {
                assert!(help.contains(option), "{}: `{command}` has no {option}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 3, "the scan found only {checked} commands: adapt it to the pages");
}

#[test]
fn the_descriptions_list_the_commands() {
    let mut commands = commands();
    assert_eq!(commands.pop().as_deref(), Some("help"));
    let description = env!("CARGO_PKG_DESCRIPTION");
    assert_eq!(description, format!("The dotcompute command: {}", commands.join(", ")));
    let readme = fs::read_to_string(root().join("README.md")).expect("the README is readable");
    let row =
        readme.lines().find(|line| line.contains("the program `dotcompute`")).expect("a row of the program");
    let listed: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
    let expected = commands.iter().map(String::as_str).chain(["dotcompute", "dotcompute-cli"]).collect();
    assert_eq!(listed, expected, "{row}");
}

#[test]
fn every_example_exists() {
    let mut checked = 0;
    for (path, text) in pages() {
        for command in code(&text) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |option: &str| {
                let at = words.iter().position(|&word| word == option)?;
                words.get(at + 1).copied()
            };
            let Some(example) = after("--example") else { continue };
            let package = after("-p").unwrap_or("dotcompute");
            let file = root().join(format!("crates/{package}/examples/{example}.rs"));
            assert!(file.is_file(), "{}: `{command}`: no file {}", path.display(), file.display());
            checked += 1;
        }
    }
    assert!(checked >= 2, "the scan found only {checked} examples: adapt it to the pages");
}

/// The target of each Markdown link outside code that is a file, without its anchor.
fn links(page: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        in_block ^= line.trim_start().starts_with("```");
        if in_block {
            continue;
        }
        // Prose lies between the code spans.
        for prose in line.split('`').step_by(2) {
            for rest in prose.split("](").skip(1) {
                let target = rest.split([')', '#']).next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && rest.contains(')') {
                    links.push(target);
                }
            }
        }
    }
    links
}

#[test]
fn every_linked_file_exists() {
    let mut checked = 0;
    for (path, text) in pages() {
        let folder = path.parent().expect("a page lies in a folder");
        for link in links(&text) {
            assert!(folder.join(link).exists(), "{} links to {link}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 20, "the scan found only {checked} links: adapt it to the pages");
}

#[test]
fn every_path_in_code_exists() {
    // Built files, and patterns, are not in the repository.
    let folders = ["crates/", "docs/", "tests/", "examples/", "benchmarks/", "xtask/", "pydotcompute/"];
    let mut checked = 0;
    for (path, text) in pages() {
        for word in code(&text).into_iter().flat_map(str::split_whitespace) {
            let is_path = folders.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', '<']);
            if is_path {
                assert!(root().join(word).exists(), "{} names {word}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "the scan found only {checked} paths: adapt it to the pages");
}
