//! Retired words: terms that this project has replaced by those of the field, and must not come back.
//!
//! The list is `docs/contributing/retired_words.txt`. Text is compared word by word; an identifier counts as its words, so that `bury_output`
//! and `BuryOutput` contain `bury`.

use std::collections::BTreeMap;
use std::fs;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// The list of words, relative to the root.
const LIST: &str = "docs/contributing/retired_words.txt";

/// Files that may contain retired words: the vocabulary itself, licences, published output, generated files, and names that users of 0.2 have.
const EXEMPT: [&str; 8] = [
    LIST,
    "docs/contributing/terms.md",
    "xtask/src/vocabulary.rs",
    "docs/measurements/",
    "LICENSE",
    "Cargo.lock",
    "tests/api_names.txt",
    "crates/dotcompute-cli/assets/",
];

/// Findings that are printed.
const MAX_SHOWN: usize = 100;

/// The retired words and phrases, each as its words, with what replaces it. Sorted by first word.
#[derive(Debug, Default)]
struct Retired {
    by_first_word: BTreeMap<String, Vec<(Vec<String>, String)>>,
}

impl Retired {
    /// Parses the list.
    fn parse(list: &str) -> Self {
        let mut retired = Self::default();
        for line in list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((phrases, instead)) = line.split_once('=') else { continue };
            for phrase in phrases.split(',') {
                let words: Vec<String> = words_of(phrase).map(str::to_lowercase).collect();
                if let Some(first) = words.first() {
                    retired
                        .by_first_word
                        .entry(first.clone())
                        .or_default()
                        .push((words, instead.trim().to_owned()));
                }
            }
        }
        retired
    }

    /// The retired phrases in a line, with what replaces each.
    fn find(&self, line: &str) -> Vec<(String, &str)> {
        let words: Vec<String> = words_of(line).map(str::to_lowercase).collect();
        let mut found = Vec::new();
        for at in 0..words.len() {
            for (phrase, instead) in self.by_first_word.get(&words[at]).into_iter().flatten() {
                if words[at..].starts_with(phrase) {
                    found.push((phrase.join(" "), instead.as_str()));
                }
            }
        }
        found
    }
}

/// The words of a text: runs of letters, split where an identifier's next word begins with a capital. An apostrophe ends a word.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphabetic()).flat_map(|run| {
        let mut starts = vec![0];
        let mut previous_is_lower = false;
        for (at, c) in run.char_indices() {
            if c.is_uppercase() && previous_is_lower {
                starts.push(at);
            }
            previous_is_lower = c.is_lowercase();
        }
        starts.push(run.len());
        starts
            .windows(2)
            .map(|pair| &run[pair[0]..pair[1]])
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
    })
}

/// Searches every tracked text file and prints each retired word with its place and replacement.
///
/// # Errors
///
/// [`Failure::Vocabulary`] if there are any; an error if git or a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<(), Failure> {
    let list = workspace.root().join(LIST);
    let list = fs::read_to_string(&list).map_err(Failure::io(format!("reading {}", list.display())))?;
    let retired = Retired::parse(&list);
    let tracked = Invocation::new("git").args(["ls-files"]).capture(workspace)?;
    let (mut files, mut count) = (0, 0);
    for file in tracked.lines().filter(|file| !EXEMPT.iter().any(|exempt| file.starts_with(exempt))) {
        // A file that is not UTF-8 is not text; one that is gone from the work tree is about to be removed.
        let Ok(text) = fs::read_to_string(workspace.root().join(file)) else { continue };
        files += 1;
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in retired.find(line) {
                count += 1;
                if count <= MAX_SHOWN {
                    println!("{file}:{}: `{word}`: {instead}", number + 1);
                }
            }
        }
    }
    println!("{files} files, {count} retired words");
    if count == 0 { Ok(()) } else { Err(Failure::Vocabulary { count, list: LIST }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n\nbury, buried = dead-letter\nin hand = current\nhe = name the subject\n";

    fn found(line: &str) -> Vec<String> {
        Retired::parse(TEXT).find(line).into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn words_are_found_in_prose_and_inside_identifiers() {
        assert_eq!(found("// It is Buried, with the message in hand."), ["buried", "in hand"]);
        assert_eq!(found("fn bury_output(x: BuryAll)"), ["bury", "bury"]);
        assert_eq!(found("what he sends"), ["he"]);
    }

    #[test]
    fn parts_of_words_are_left_alone() {
        assert_eq!(found("the header, unburied; in handlers"), [] as [&str; 0]);
        assert_eq!(found("THE HEAD"), [] as [&str; 0]);
    }

    #[test]
    fn a_replacement_comes_with_each() {
        assert_eq!(Retired::parse(TEXT).find("bury")[0].1, "dead-letter");
    }
}
