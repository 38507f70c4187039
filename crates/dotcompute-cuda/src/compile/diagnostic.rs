//! Diagnostics of the compiler, the assembler and the linker, parsed from their logs.

use std::fmt;

/// The severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Information only.
    Remark,
    /// Probably a mistake.
    Warning,
    /// The input cannot be compiled.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remark => "remark",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One diagnostic of the compiler, the assembler or the linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The source location: file and line, as the sources were named and numbered. `None` for the linker, which reports functions only.
    pub location: Option<(String, u32)>,
    /// The text of the first line, without location and severity.
    pub message: String,
    /// The lines that follow: the source text and the chain of instantiations or inclusions.
    pub details: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.location {
            write!(f, "{file}:{line}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        if !self.details.is_empty() {
            write!(f, "\n{}", self.details)?;
        }
        Ok(())
    }
}

/// The prefixes that begin a diagnostic, after its location if it has one.
const SEVERITY_PREFIXES: [(&str, Severity); 8] = [
    ("catastrophic error", Severity::Error),
    ("internal error", Severity::Error),
    ("error", Severity::Error),
    ("warning", Severity::Warning),
    ("remark", Severity::Remark),
    ("ptxas fatal", Severity::Error),
    ("ptxas error", Severity::Error),
    ("ptxas warning", Severity::Warning),
];

/// Parses every diagnostic of a log.
///
/// These lines begin a diagnostic:
///
/// - `FILE(LINE): error: ...` and `nvrtc: error: ...` of NVRTC,
/// - `ptxas fatal   : ...` and `ptxas ..., line N; error   : ...` of the assembler,
/// - `ERROR NVJITLINK_...: ...` of nvJitLink.
///
/// The lines after a diagnostic of NVRTC, up to an empty line, are its details.
pub(super) fn parse(log: &str) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut open = false;
    for line in log.lines() {
        if let Some(diagnostic) = first_line(line) {
            open = diagnostic.location.is_some();
            found.push(diagnostic);
        } else if line.trim().is_empty() {
            open = false;
        } else if let Some(last) = found.last_mut().filter(|_| open) {
            if !last.details.is_empty() {
                last.details.push('\n');
            }
            last.details.push_str(line.trim_end());
        }
    }
    found
}

fn first_line(line: &str) -> Option<Diagnostic> {
    let bare = |severity, message: &str| {
        Some(Diagnostic {
            severity,
            location: None,
            message: message.trim().to_owned(),
            details: String::new(),
        })
    };
    // The assembler's location refers to generated PTX, which the user does not have: it stays in the message.
    if line.starts_with("ptxas ") && line.contains("; error ") {
        return bare(Severity::Error, line);
    }
    if let Some(message) = line.strip_prefix("ERROR ") {
        return bare(Severity::Error, message);
    }
    if let Some((severity, message)) = split_severity(line.strip_prefix("nvrtc: ").unwrap_or(line)) {
        return bare(severity, message);
    }
    // A file name may contain any character, so the location ends at `): ` followed by a known prefix.
    let mut from = 0;
    while let Some(at) = line[from..].find("): ").map(|at| from + at) {
        let (before, after) = (&line[..at], &line[at + "): ".len()..]);
        let location = before.rsplit_once('(').and_then(|(file, number)| Some((file, number.parse().ok()?)));
        if let (Some((file, number)), Some((severity, message))) = (location, split_severity(after)) {
            let location = Some((file.to_owned(), number));
            let message = message.trim().to_owned();
            return Some(Diagnostic { severity, location, message, details: String::new() });
        }
        from = at + "): ".len();
    }
    None
}

/// Splits a line that begins with a severity prefix into severity and message. Skips a diagnostic number before the colon (`#177-D`).
fn split_severity(line: &str) -> Option<(Severity, &str)> {
    let (mark, message) = line.split_once(':')?;
    let mark = mark.split_once(" #").map_or(mark, |(mark, _)| mark).trim();
    SEVERITY_PREFIXES.iter().find(|(prefix, _)| *prefix == mark).map(|(_, severity)| (*severity, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of NVRTC 13.0 and nvJitLink 13.0, shortened.
    const LOG: &str = r#"user.cu(7): error: static assertion failed with "wrong size of T"
  template<class T> struct A { static_assert(sizeof(T)==8, "wrong size of T"); T v; };
                               ^
          detected during instantiation of class "A<T> [with T=int]" at line 8

src/my (1): error.rs(8): warning #177-D: variable "a" was declared but never referenced
  A<int> a;
         ^

Remark: The warnings can be suppressed with "-diag-suppress <warning-number>"

1 error detected in the compilation of "a.cu".
nvrtc: error: unrecognized option -nonsense found
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas application ptx input, line 27; error   : Not a name of any known instruction: 'frobnicate'
ptxas fatal   : Unresolved extern function 'gone'
ERROR NVJITLINK_ERROR_PTX_COMPILE: JIT the PTX (ltoPtx)
"#;

    #[test]
    fn diagnostics_are_separated_from_other_lines() {
        let found = parse(LOG);
        let heads: Vec<_> =
            found.iter().map(|one| (one.severity, one.location.clone(), one.message.as_str())).collect();
        let location = |file: &str, line| Some((file.to_owned(), line));
        let expected = [
            (Severity::Error, location("user.cu", 7), "static assertion failed with \"wrong size of T\""),
            (
                Severity::Warning,
                location("src/my (1): error.rs", 8),
                "variable \"a\" was declared but never referenced",
            ),
            (Severity::Error, None, "unrecognized option -nonsense found"),
            (
                Severity::Error,
                None,
                "ptxas application ptx input, line 27; error   : Not a name of any known instruction: 'frobnicate'",
            ),
            (Severity::Error, None, "Unresolved extern function 'gone'"),
            (Severity::Error, None, "NVJITLINK_ERROR_PTX_COMPILE: JIT the PTX (ltoPtx)"),
        ];
        assert_eq!(heads, expected);
        assert!(found[0].details.ends_with("[with T=int]\" at line 8"), "{}", found[0].details);
        assert_eq!(found[1].details, "  A<int> a;\n         ^");
        assert!(found[2..].iter().all(|one| one.details.is_empty()));
    }

    #[test]
    fn an_empty_log_and_information_lines_have_no_diagnostics() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("ptxas info    : 4000 bytes gmem\n"), []);
    }

    #[test]
    fn a_diagnostic_is_displayed_in_the_format_that_editors_parse() {
        let text = parse(LOG)[1].to_string();
        assert!(text.starts_with("src/my (1): error.rs:8: warning: variable"), "{text}");
    }
}
