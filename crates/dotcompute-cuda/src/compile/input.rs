//! What is to be compiled.

use std::borrow::Cow;
use std::ffi::CString;
use std::fmt::Write as _;

use super::CompileError;
use crate::Architecture;

/// A named text. In errors its lines have this name and are numbered from [`Source::line`] on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub(super) name: Cow<'static, str>,
    pub(super) text: Cow<'static, str>,
    pub(super) line: u32,
}

impl Source {
    /// A text whose first line is line 1 of `name`: a file, or whatever the user will know it by.
    pub fn new(name: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), text: text.into(), line: 1 }
    }

    /// Says that the text begins on another line of the file that it is named after.
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

    /// The text with a `#line` before it.
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

/// A part that another front end has compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LtoIr {
    pub(super) name: Cow<'static, str>,
    pub(super) bytes: Vec<u8>,
}

impl LtoIr {
    /// LTO-IR, for the architecture that is compiled for, called `name` in errors.
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
    pub(super) parts: Vec<LtoIr>,
    pub(super) options: Vec<String>,
}

impl Input {
    /// Nothing yet, for a kernel that errors will call `name`.
    pub fn new(name: impl Into<String>, architecture: Architecture) -> Self {
        Self {
            name: name.into(),
            architecture,
            headers: Vec::new(),
            sources: Vec::new(),
            parts: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Adds a text that is compiled where another one says `#include` and its name, and nowhere else.
    #[must_use]
    pub fn header(mut self, header: Source) -> Self {
        self.headers.push(header);
        self
    }

    /// Adds a text. All of them are one translation unit, in this order.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// Adds what another front end has compiled. It takes nvJitLink to link it.
    #[must_use]
    pub fn part(mut self, part: LtoIr) -> Self {
        self.parts.push(part);
        self
    }

    /// Adds an option of NVRTC's, such as `-DCAPACITY=64` or `-diag-suppress=177`, after the framework's own.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is compiled for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Everything that decides what comes out, as bytes of which no two inputs have the same: each part after its length.
    pub(crate) fn fingerprint(&self, mut feed: impl FnMut(&[u8])) {
        let mut part = |bytes: &[u8]| {
            feed(&(bytes.len() as u64).to_le_bytes());
            feed(bytes);
        };
        part(self.name.as_bytes());
        part(self.architecture.to_string().as_bytes());
        for list in [&self.headers, &self.sources] {
            part(&(list.len() as u64).to_le_bytes());
            for Source { name, text, line } in list {
                part(name.as_bytes());
                part(&line.to_le_bytes());
                part(text.as_bytes());
            }
        }
        part(&(self.parts.len() as u64).to_le_bytes());
        for LtoIr { name, bytes } in &self.parts {
            part(name.as_bytes());
            part(bytes);
        }
        for option in &self.options {
            part(option.as_bytes());
        }
    }

    /// The translation unit.
    pub(super) fn text(&self) -> Result<CString, CompileError> {
        let mut text = String::new();
        for source in &self.sources {
            if source.name.contains(['\n', '\r']) {
                return Err(
                    self.unusable(format!("the name {:?} of a source has a line end in it", source.name))
                );
            }
            source.write(&mut text);
        }
        self.c_string(text, "a source")
    }

    /// The headers: names and texts.
    pub(super) fn header_texts(&self) -> Result<Vec<(CString, CString)>, CompileError> {
        let header = |header: &Source| {
            let mut text = String::new();
            // NVRTC numbers a header's lines itself, as long as they begin at 1.
            if header.line != 1 {
                header.write(&mut text);
            } else {
                text.push_str(&header.text);
            }
            Ok((self.c_string(&*header.name, "a header's name")?, self.c_string(text, "a header")?))
        };
        self.headers.iter().map(header).collect()
    }

    /// A text for the compiler, which takes it up to the first NUL.
    pub(super) fn c_string(&self, text: impl Into<Vec<u8>>, what: &str) -> Result<CString, CompileError> {
        CString::new(text).map_err(|error| {
            let at = error.nul_position();
            self.unusable(format!("{what} has a NUL character in it, at byte {at}; remove that"))
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
    fn what_the_compiler_would_cut_off_is_refused() {
        let error = input().source(Source::new("a.cu", "int x;\0int y;")).text().unwrap_err();
        assert!(error.to_string().contains("NUL character"), "{error}");
        let error = input().source(Source::new("a\n.cu", "")).text().unwrap_err();
        assert!(error.to_string().contains("line end"), "{error}");
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
            input().part(LtoIr::new("a", vec![b'b'])),
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
