//! The input of a compilation.

use std::borrow::Cow;
use std::ffi::CString;
use std::fmt::Write as _;

use super::CompileError;
use crate::Architecture;

/// A named source text. Diagnostics use this name and number its lines from [`Source::line`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub(super) name: Cow<'static, str>,
    pub(super) text: Cow<'static, str>,
    pub(super) line: u32,
}

impl Source {
    /// Creates a source whose first line is line 1 of `name`. The name is a file, or another name that the user recognises.
    pub fn new(name: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), text: text.into(), line: 1 }
    }

    /// Sets the line of the named file at which the text begins.
    ///
    /// ```
    /// use dotcompute_cuda::compile::Source;
    ///
    /// let handler = Source::new(file!(), "extern \"C\" __device__ int f() { return 1; }").line(line!());
    /// # let _ = handler;
    /// ```
    #[must_use]
    pub fn line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }

    /// Appends the text to `text`, preceded by a `#line` directive.
    pub(crate) fn write(&self, text: &mut String) {
        let name = self.name.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "#line {} \"{name}\"", self.line);
        text.push_str(&self.text);
        if !self.text.ends_with('\n') {
            text.push('\n');
        }
    }
}

/// A part in LTO-IR that another front end compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LtoIr {
    pub(super) name: Cow<'static, str>,
    pub(super) bytes: Vec<u8>,
}

impl LtoIr {
    /// Wraps LTO-IR for the target architecture. Diagnostics call it `name`.
    pub fn new(name: impl Into<Cow<'static, str>>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes }
    }
}

/// Everything that a kernel is compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub(super) name: String,
    pub(super) architecture: Architecture,
    pub(super) headers: Vec<Source>,
    pub(super) sources: Vec<Source>,
    pub(super) lto_parts: Vec<LtoIr>,
    pub(super) options: Vec<String>,
    pub(super) fast_math: bool,
}

impl Input {
    /// Creates an empty input for a kernel that diagnostics call `name`.
    pub fn new(name: impl Into<String>, architecture: Architecture) -> Self {
        Self {
            name: name.into(),
            architecture,
            headers: Vec::new(),
            sources: Vec::new(),
            lto_parts: Vec::new(),
            options: Vec::new(),
            fast_math: false,
        }
    }

    /// Adds a header: text that is available to `#include` under its name and is not compiled otherwise.
    #[must_use]
    pub fn header(mut self, header: Source) -> Self {
        self.headers.push(header);
        self
    }

    /// Adds a source. All sources form one translation unit, in the order in which they were added.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// Adds a part that another front end compiled. Linking it requires nvJitLink.
    #[must_use]
    pub fn lto_part(mut self, part: LtoIr) -> Self {
        self.lto_parts.push(part);
        self
    }

    /// Adds an NVRTC option, such as `-DCAPACITY=64` or `-diag-suppress=177`, after the options of this crate.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Allows faster floating-point arithmetic that differs in the last bits: products fused with sums, approximate division, square root
    /// and functions, and subnormal numbers that become zero. Not allowed by default: then the code computes what its text says, as on a CPU.
    #[must_use]
    pub fn fast_math(mut self, allowed: bool) -> Self {
        self.fast_math = allowed;
        self
    }

    /// Returns the name that diagnostics use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the target architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Feeds everything that determines the output to `feed`, each item after its length. Different inputs feed different bytes.
    pub(crate) fn fingerprint(&self, mut feed: impl FnMut(&[u8])) {
        let mut part = |bytes: &[u8]| {
            feed(&(bytes.len() as u64).to_le_bytes());
            feed(bytes);
        };
        part(self.name.as_bytes());
        part(self.architecture.to_string().as_bytes());
        part(&[u8::from(self.fast_math)]);
        for list in [&self.headers, &self.sources] {
            part(&(list.len() as u64).to_le_bytes());
            for Source { name, text, line } in list {
                part(name.as_bytes());
                part(&line.to_le_bytes());
                part(text.as_bytes());
            }
        }
        part(&(self.lto_parts.len() as u64).to_le_bytes());
        for LtoIr { name, bytes } in &self.lto_parts {
            part(name.as_bytes());
            part(bytes);
        }
        for option in &self.options {
            part(option.as_bytes());
        }
    }

    /// Returns the translation unit.
    pub(super) fn text(&self) -> Result<CString, CompileError> {
        let mut text = String::new();
        for source in &self.sources {
            if source.name.contains(['\n', '\r']) {
                return Err(self.unusable(format!(
                    "the source name {:?} contains a line break; remove it",
                    source.name
                )));
            }
            source.write(&mut text);
        }
        self.c_string(text, "a source")
    }

    /// Returns names and texts of the headers.
    pub(super) fn header_texts(&self) -> Result<Vec<(CString, CString)>, CompileError> {
        let header = |header: &Source| {
            let mut text = String::new();
            // NVRTC numbers the lines of a header from 1 by itself.
            if header.line != 1 {
                header.write(&mut text);
            } else {
                text.push_str(&header.text);
            }
            Ok((self.c_string(&*header.name, "a header's name")?, self.c_string(text, "a header")?))
        };
        self.headers.iter().map(header).collect()
    }

    /// Converts a text for the compiler, which reads it up to the first NUL.
    pub(super) fn c_string(&self, text: impl Into<Vec<u8>>, what: &str) -> Result<CString, CompileError> {
        CString::new(text).map_err(|error| {
            let at = error.nul_position();
            self.unusable(format!("{what} contains a NUL character at byte {at}; remove it"))
        })
    }

    fn unusable(&self, problem: String) -> CompileError {
        CompileError::Unusable { kernel: self.name.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> Input {
        Input::new("k", Architecture { major: 9, minor: 0 })
    }

    fn bytes(input: &Input) -> Vec<u8> {
        let mut bytes = Vec::new();
        input.fingerprint(|part| bytes.extend_from_slice(part));
        bytes
    }

    #[test]
    fn sources_follow_one_another_each_with_its_own_lines() {
        let input = input().source(Source::new("a \"b\".cu", "x")).source(Source::new("c.cu", "y\n").line(7));
        let text = input.text().unwrap();
        assert_eq!(text.to_str().unwrap(), "#line 1 \"a \\\"b\\\".cu\"\nx\n#line 7 \"c.cu\"\ny\n");
    }

    #[test]
    fn text_that_the_compiler_would_truncate_is_rejected() {
        let error = input().source(Source::new("a.cu", "int x;\0int y;")).text().unwrap_err();
        assert!(error.to_string().contains("NUL character"), "{error}");
        let error = input().source(Source::new("a\n.cu", "")).text().unwrap_err();
        assert!(error.to_string().contains("line break"), "{error}");
        let error = input().header(Source::new("a\0.cuh", "")).header_texts().unwrap_err();
        assert!(error.to_string().contains("a header's name"), "{error}");
    }

    #[test]
    fn different_inputs_have_different_fingerprints() {
        let inputs = [
            input(),
            Input::new("l", input().architecture),
            Input::new("k", Architecture { major: 10, minor: 0 }),
            input().header(Source::new("a", "b")),
            input().source(Source::new("a", "b")),
            input().source(Source::new("ab", "")),
            input().source(Source::new("a", "b").line(2)),
            input().source(Source::new("a", "")).source(Source::new("b", "")),
            input().lto_part(LtoIr::new("a", vec![b'b'])),
            input().fast_math(true),
            input().option("ab"),
            input().option("a").option("b"),
        ];
        for (i, one) in inputs.iter().enumerate() {
            assert_eq!(bytes(one), bytes(&one.clone()));
            for other in &inputs[i + 1..] {
                assert_ne!(bytes(one), bytes(other), "{one:?} and {other:?}");
            }
        }
    }
}
