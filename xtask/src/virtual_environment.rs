//! Virtual environments of Python under `target/`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// Name of the development environment.
const DEVELOPMENT: &str = "python-venv";

/// A virtual environment.
#[derive(Clone)]
pub struct Environment {
    folder: PathBuf,
}

impl Environment {
    /// The development environment, with the package installed in editable mode. It is created or updated once per run of this program.
    ///
    /// # Errors
    ///
    /// When Python or pip are missing or fail.
    pub fn developers(workspace: &Workspace) -> Result<Self, Failure> {
        static READY: OnceLock<Environment> = OnceLock::new();
        if let Some(ready) = READY.get() {
            return Ok(ready.clone());
        }
        let environment = Self::kept(workspace, DEVELOPMENT)?;
        println!("installing pydotcompute and its tools from PyPI into {}", environment.folder.display());
        environment.pip(workspace, &["install", "--quiet", "--editable", ".[dev,metal]"], &[])?;
        Ok(READY.get_or_init(|| environment).clone())
    }

    /// The development environment, if an earlier run has installed its tools.
    pub fn installed(workspace: &Workspace) -> Option<Self> {
        let environment = Self::at(workspace, DEVELOPMENT);
        environment.folder.join("bin/ruff").is_file().then_some(environment)
    }

    /// An environment of an earlier run, or a new one.
    ///
    /// # Errors
    ///
    /// When Python is missing or fails.
    pub fn kept(workspace: &Workspace, name: &str) -> Result<Self, Failure> {
        let environment = Self::at(workspace, name);
        if !environment.python().is_file() {
            environment.create(workspace)?;
        }
        Ok(environment)
    }

    /// Creates an empty environment in place of an earlier one.
    ///
    /// # Errors
    ///
    /// When Python is missing or fails.
    pub fn fresh(workspace: &Workspace, name: &str) -> Result<Self, Failure> {
        let environment = Self::at(workspace, name);
        environment.create(workspace)?;
        Ok(environment)
    }

    fn at(workspace: &Workspace, name: &str) -> Self {
        Environment { folder: workspace.target_dir().join(name) }
    }

    fn create(&self, workspace: &Workspace) -> Result<(), Failure> {
        Invocation::new("python3").args(["-m", "venv", "--clear"]).arg(&self.folder).run(workspace)
    }

    /// The folder of the environment.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// A program of this environment.
    pub fn program(&self, name: &str) -> Invocation {
        Invocation::new(self.folder.join("bin").join(name))
    }

    /// Runs pip.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn pip(&self, workspace: &Workspace, arguments: &[&str], paths: &[&Path]) -> Result<(), Failure> {
        Invocation::new(self.python())
            .args(["-m", "pip", "--disable-pip-version-check"])
            .args(arguments)
            .args(paths)
            .run(workspace)
    }
}
