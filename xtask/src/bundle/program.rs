//! A program of the bundle, and the C library that it needs.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// A program of the bundle.
pub struct Program {
    /// The name of the file.
    pub name: String,
    /// The size without debugging information.
    pub bytes: u64,
    /// The newest version of the C library that it needs.
    pub glibc: Glibc,
}

/// Copies a program without its debugging information.
///
/// # Errors
///
/// When `strip` or `objdump` are missing or fail.
pub fn add_program(workspace: &Workspace, program: &Path, to: &Path) -> Result<Program, Failure> {
    Invocation::new("strip").arg("-o").arg(to).arg(program).run(workspace)?;
    let symbols = Invocation::new("objdump").arg("-T").arg(to).capture(workspace)?;
    let bytes = fs::metadata(to).map_err(Failure::io(format!("looking at {}", to.display())))?.len();
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Program { name, bytes, glibc: required_glibc(&symbols) })
}

/// A version of the GNU C library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glibc(pub u32, pub u32);

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The newest version among the symbols that a program needs.
pub fn required_glibc(symbols: &str) -> Glibc {
    let version = |rest: &str| {
        let number =
            |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        let mut parts = rest.split('.');
        Some(Glibc(number(parts.next()?)?, number(parts.next()?)?))
    };
    symbols.split("GLIBC_").skip(1).filter_map(version).max().unwrap_or_default()
}
