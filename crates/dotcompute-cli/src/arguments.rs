//! Parsers for argument values that several commands take.

/// Parses a score from 0 to 1.
pub(crate) fn score(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(String::from("give a number between 0 and 1")),
    }
}

/// Parses a positive number of seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err(String::from("give a number of seconds greater than 0, and at most 1e9")),
    }
}
