//! The result of one check.

use serde::Serialize;

/// Whether the machine offers what a check asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is available.
    Ok,
    /// It is missing or too small.
    Missing,
}

/// One check of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is available.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// Why it matters to ring kernels.
    pub meaning: &'static str,
    /// What to do if it is missing.
    pub advice: Option<String>,
}

impl Check {
    pub(super) fn new(name: &'static str, ok: bool, found: impl Into<String>, meaning: &'static str) -> Self {
        let status = if ok { Status::Ok } else { Status::Missing };
        Self { name, status, found: found.into(), meaning, advice: None }
    }

    /// Adds what to do, if the status is [`Status::Missing`].
    pub(super) fn with_advice(self, advice: impl Into<String>) -> Self {
        let advice = (self.status == Status::Missing).then(|| advice.into());
        Self { advice, ..self }
    }
}

/// Formats a size as `1.5 GB`, in powers of ten.
pub(super) fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 1000.0 {
            return format!("{amount:.1} {unit}");
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_sizes_in_powers_of_ten() {
        assert_eq!(size(999), "999.0 B");
        assert_eq!(size(64_000_000), "64.0 MB");
        assert_eq!(size(2_500_000_000_000), "2.5 TB");
    }

    #[test]
    fn only_a_missing_check_has_advice() {
        assert_eq!(Check::new("a", false, "b", "c").with_advice("d").advice.as_deref(), Some("d"));
        assert_eq!(Check::new("a", true, "b", "c").with_advice("d").advice, None);
    }
}
