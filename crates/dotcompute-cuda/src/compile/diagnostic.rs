//! The compiler's messages, read from its log.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something to know.
    Remark,
    /// Something that is probably not meant.
    Warning,
    /// Something that cannot be compiled.
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

/// One message of the compiler, the assembler or the linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file and the line in it, as the sources were named and numbered; none from the linker, which knows functions only.
    pub place: Option<(String, u32)>,
    /// What the compiler says.
    pub message: String,
    /// The lines after it: the text at fault, and how the compiler came there.
    pub details: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.place {
            write!(f, "{file}:{line}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)?;
        if !self.details.is_empty() {
            write!(f, "\n{}", self.details)?;
        }
        Ok(())
    }
}

/// How messages begin, after their place if they have one.
const MARKS: [(&str, Severity); 8] = [
    ("catastrophic error", Severity::Error),
    ("internal error", Severity::Error),
    ("error", Severity::Error),
    ("warning", Severity::Warning),
    ("remark", Severity::Remark),
    ("ptxas fatal", Severity::Error),
    ("ptxas error", Severity::Error),
    ("ptxas warning", Severity::Warning),
];

/// All messages in a log.
///
/// Three kinds of line begin one: `FILE(CACHE_LINE): error: ...` and `nvrtc: error: ...` of NVRTC, `ptxas fatal   : ...` and
/// `ptxas ..., line N; error   : ...` of the assembler, and `ERROR NVJITLINK_...: ...` of nvJitLink.
/// What follows a message of NVRTC up to an empty line belongs to it.
pub(super) fn parse(log: &str) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut open = false;
    for line in log.lines() {
        if let Some(diagnostic) = first_line(line) {
            open = diagnostic.place.is_some();
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
        Some(Diagnostic { severity, place: None, message: message.trim().to_owned(), details: String::new() })
    };
    // The assembler's own place is in PTX that nobody has seen: it stays in the message.
    if line.starts_with("ptxas ") && line.contains("; error ") {
        return bare(Severity::Error, line);
    }
    if let Some(message) = line.strip_prefix("ERROR ") {
        return bare(Severity::Error, message);
    }
    if let Some((severity, message)) = marked(line.strip_prefix("nvrtc: ").unwrap_or(line)) {
        return bare(severity, message);
    }
    // A file's name may have anything in it: the place ends where a mark begins.
    let mut from = 0;
    while let Some(at) = line[from..].find("): ").map(|at| from + at) {
        let (before, after) = (&line[..at], &line[at + "): ".len()..]);
        let place = before.rsplit_once('(').and_then(|(file, number)| Some((file, number.parse().ok()?)));
        if let (Some((file, number)), Some((severity, message))) = (place, marked(after)) {
            let place = Some((file.to_owned(), number));
            let message = message.trim().to_owned();
            return Some(Diagnostic { severity, place, message, details: String::new() });
        }
        from = at + "): ".len();
    }
    None
}

/// The severity and the message of a line that begins with a mark; a number between it and the colon (`#177-D`) is passed over.
fn marked(line: &str) -> Option<(Severity, &str)> {
    let (mark, message) = line.split_once(':')?;
    let mark = mark.split_once(" #").map_or(mark, |(mark, _)| mark).trim();
    MARKS.iter().find(|(known, _)| *known == mark).map(|(_, severity)| (*severity, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What NVRTC 13.0 said, and nvJitLink 13.0, less a few lines.
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
    fn messages_are_told_from_the_rest() {
        let found = parse(LOG);
        let heads: Vec<_> =
            found.iter().map(|one| (one.severity, one.place.clone(), one.message.as_str())).collect();
        let place = |file: &str, line| Some((file.to_owned(), line));
        let expected = [
            (Severity::Error, place("user.cu", 7), "static assertion failed with \"wrong size of T\""),
            (
                Severity::Warning,
                place("src/my (1): error.rs", 8),
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
    fn an_empty_log_and_mere_information_have_no_messages() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("ptxas info    : 4000 bytes gmem\n"), []);
    }

    #[test]
    fn a_message_is_shown_as_editors_read_it() {
        let text = parse(LOG)[1].to_string();
        assert!(text.starts_with("src/my (1): error.rs:8: warning: variable"), "{text}");
    }
}
