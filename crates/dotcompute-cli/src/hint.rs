//! Advice that follows an error message.

/// An error that can tell the user what to do next.
///
/// The message says what was being done and what went wrong. The program prints the hint on a line of its own:
///
/// ```text
/// error: reading the series load.csv: it is not a file
/// hint: name the CSV file itself
/// ```
pub trait Hint {
    /// What to do next, in lower case and without a full stop. `None` if there is no advice.
    fn hint(&self) -> Option<String>;
}
