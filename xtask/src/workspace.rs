//! The workspace as cargo describes it: its root, its targets, the programs of a build.

use std::cell::OnceCell;
use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{Failure, Invocation};

/// The workspace that this program was built in.
pub struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
    programs: OnceCell<Vec<(String, PathBuf)>>,
}

impl Workspace {
    /// Finds the root from this crate's own manifest, so that the working directory does not matter.
    ///
    /// # Errors
    ///
    /// When the manifest's directory has no parent.
    pub fn find() -> Result<Self, Failure> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().ok_or_else(|| Failure::Missing("a root above xtask/".into()))?;
        let target_dir = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        Ok(Workspace { root: root.to_owned(), target_dir, programs: OnceCell::new() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// The names of a package's targets of one kind (`test`, `example`, ...), in the order of the file system.
    ///
    /// # Errors
    ///
    /// When cargo cannot describe the workspace, or the package is not in it.
    pub fn targets(&self, package: &str, kind: &str) -> Result<Vec<String>, Failure> {
        let describe = Invocation::cargo(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata = parse(&describe, &describe.capture(self)?)?;
        let package = array(&metadata["packages"])
            .find(|candidate| candidate["name"] == package)
            .ok_or_else(|| Failure::Missing(format!("the package {package}")))?;
        let of_kind = |target: &&Value| array(&target["kind"]).any(|k| k == kind);
        Ok(array(&package["targets"]).filter(of_kind).filter_map(|target| text(&target["name"])).collect())
    }

    /// The root source file of every library and every program without one, as `(package, path)`, without tests, examples and build scripts.
    ///
    /// # Errors
    ///
    /// When cargo cannot describe the workspace.
    pub fn library_sources(&self) -> Result<Vec<(String, PathBuf)>, Failure> {
        let describe = Invocation::cargo(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata = parse(&describe, &describe.capture(self)?)?;
        let is_library = |target: &&Value| {
            array(&target["kind"]).any(|kind| {
                ["lib", "rlib", "cdylib", "proc-macro", "bin"].contains(&kind.as_str().unwrap_or_default())
            })
        };
        let mut sources = Vec::new();
        for package in array(&metadata["packages"]) {
            for target in array(&package["targets"]).filter(is_library) {
                if let (Some(name), Some(path)) = (text(&package["name"]), text(&target["src_path"])) {
                    sources.push((name, PathBuf::from(path)));
                }
            }
        }
        Ok(sources)
    }

    /// Every program of the workspace but this one, and every example, with the test profile, as `(target name, path)`. They are built together, the first time
    /// that one is asked for: programs that are built one by one have dependencies with other features, which compile again.
    ///
    /// # Errors
    ///
    /// As [`Workspace::build_executables`].
    pub fn programs(&self) -> Result<&[(String, PathBuf)], Failure> {
        if let Some(built) = self.programs.get() {
            return Ok(built);
        }
        // Without this program, which runs.
        let targets = ["--workspace", "--exclude", "xtask", "--bins", "--examples"];
        let build = Invocation::cargo(["build", "--profile", "test", "--quiet"]).args(targets);
        let built = self.build_executables(&build)?;
        Ok(self.programs.get_or_init(|| built))
    }

    /// One of [`Workspace::programs`].
    ///
    /// # Errors
    ///
    /// As [`Workspace::programs`], and when there is no such program.
    pub fn program(&self, name: &str) -> Result<&Path, Failure> {
        let found = self.programs()?.iter().find(|(target, _)| target == name);
        found.map(|(_, path)| path.as_path()).ok_or_else(|| Failure::Missing(format!("the program {name}")))
    }

    /// Runs a build and returns its programs, rebuilt or up to date, as `(target name, path)`.
    ///
    /// # Errors
    ///
    /// When the build fails, or cargo's report is not JSON.
    pub fn build_executables(&self, build: &Invocation) -> Result<Vec<(String, PathBuf)>, Failure> {
        let build = build.clone().arg("--message-format=json-render-diagnostics");
        let mut programs = Vec::new();
        for line in build.capture(self)?.lines().filter(|line| line.starts_with('{')) {
            let message = parse(&build, line)?;
            if let (Some(name), Some(path)) = (text(&message["target"]["name"]), text(&message["executable"]))
            {
                programs.push((name, PathBuf::from(path)));
            }
        }
        Ok(programs)
    }

    /// As [`Workspace::build_executables`], for the one program called `name`.
    ///
    /// # Errors
    ///
    /// As [`Workspace::build_executables`], and when the build has no such program.
    pub fn build_executable(&self, build: &Invocation, name: &str) -> Result<PathBuf, Failure> {
        let programs = self.build_executables(build)?;
        let found = programs.into_iter().find(|(target, _)| target == name);
        found.map(|(_, path)| path).ok_or_else(|| Failure::Missing(format!("the program {name}")))
    }
}

/// Commands run in the root of the workspace.
impl AsRef<Path> for Workspace {
    fn as_ref(&self) -> &Path {
        &self.root
    }
}

/// One JSON value of a command's output.
///
/// # Errors
///
/// When `line` is not JSON.
pub fn parse(command: &Invocation, line: &str) -> Result<Value, Failure> {
    serde_json::from_str(line).map_err(|error| Failure::Output {
        command: command.to_string(),
        problem: format!("{error} in {:?}", line.chars().take(200).collect::<String>()),
    })
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_package_and_kind() {
        let workspace = Workspace::find().unwrap();
        assert_eq!(workspace.targets("dotcompute-cli", "bin").unwrap(), ["dotcompute"]);
        assert!(matches!(workspace.targets("no-such-package", "bin"), Err(Failure::Missing(_))));
    }
}
