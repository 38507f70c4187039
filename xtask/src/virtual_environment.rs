//! Virtual environments of Python under `target/`.
//!
//! uv creates them and installs the packages: it takes seconds where pip takes minutes, and environments share the packages that it has
//! downloaded. It comes from PyPI. `UV_DEFAULT_INDEX` and its other variables name another package index.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// Name of the development environment.
const DEVELOPMENT: &str = "python-venv";

/// Name of the environment that has uv and nothing else.
const INSTALLER: &str = "uv-venv";

/// The package installer; any release with this major interface serves.
const UV: &str = "uv>=0.9,<1";

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
        // The extension is built again even where only Rust sources have changed, of which uv knows nothing.
        let package = ["--reinstall-package", "pydotcompute", "--editable", ".[dev,metal]"];
        environment.install(workspace, &package, &[])?;
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
        // With pip, which some programs that run inside need.
        uv(workspace)?
            .args(["venv", "--quiet", "--clear", "--seed", "--python", "python3"])
            .arg(&self.folder)
            .run(workspace)
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

    /// Installs packages.
    ///
    /// # Errors
    ///
    /// When uv cannot be installed, or a package cannot.
    pub fn install(&self, workspace: &Workspace, packages: &[&str], paths: &[&Path]) -> Result<(), Failure> {
        uv(workspace)?
            .args(["pip", "install", "--quiet", "--python"])
            .arg(self.python())
            .args(packages)
            .args(paths)
            .run(workspace)
    }

    /// The folder of the environment's packages.
    ///
    /// # Errors
    ///
    /// When the environment's Python cannot be run.
    pub fn site_packages(&self, workspace: &Workspace) -> Result<PathBuf, Failure> {
        let ask = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let folder = Invocation::new(self.python()).args(["-c", ask]).capture(workspace)?;
        Ok(PathBuf::from(folder.trim_end()))
    }
}

/// uv, installed from PyPI when a run first needs it.
///
/// # Errors
///
/// When Python or pip are missing, or pip cannot install it.
pub fn uv(workspace: &Workspace) -> Result<Invocation, Failure> {
    let program = Environment::at(workspace, INSTALLER).folder.join("bin/uv");
    if !program.is_file() {
        let folder = workspace.target_dir().join(INSTALLER);
        Invocation::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).run(workspace)?;
        Invocation::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
            .run(workspace)?;
    }
    Ok(Invocation::new(program))
}
