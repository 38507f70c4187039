//! One command: how it is shown, run, captured and bounded in time.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Why a step failed. The text names the command to run by hand.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot start `{command}`: {source}; is the program installed and on PATH?")]
    Start { command: String, source: io::Error },
    #[error("`{command}` failed ({status}); run it alone from {directory} to see why")]
    Status { command: String, status: String, directory: PathBuf },
    #[error("`{command}` did not end within {limit:?} and was killed; run it alone from {directory}")]
    TimedOut { command: String, limit: Duration, directory: PathBuf },
    #[error("`{command}` printed unexpected output: {problem}")]
    Output { command: String, problem: String },
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("ThreadSanitizer reported {count} races with device code; all of its reports are in {log}")]
    Races { count: usize, log: PathBuf },
    #[error(
        "ThreadSanitizer did not report the seeded fault ({fault}); its results for device code are not reliable here"
    )]
    SeededFaultMissed { fault: &'static str },
    #[error("the bundle {folder} has {bytes} bytes, more than the limit of {max}; leave something out")]
    TooLarge { folder: PathBuf, bytes: u64, max: u64 },
    #[error("the wheel {wheel} cannot be published: {problem}")]
    Wheel { wheel: PathBuf, problem: String },
    #[error("parsing {}: {problem}", file.display())]
    Syntax { file: PathBuf, problem: String },
    #[error(
        "{count} import circles between files (listed above): files that import from each other cannot be read, tested or moved one at a \
         time; move the type that both need into a file of its own below both"
    )]
    Circles { count: usize },
    #[error("{count} retired words (listed above); use the terms of {list}")]
    Vocabulary { count: usize, list: &'static str },
    #[error("the workspace has no {0}")]
    Missing(String),
}

impl Failure {
    /// Describes an I/O error by what was being done.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
        let doing = doing.into();
        move |source| Failure::Io { doing, source }
    }
}

/// How long each command took, until [`Invocation::take_durations`] reads it.
static DURATIONS: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// A program with its arguments, changed environment and directory. `Display` gives a line that a shell accepts.
#[derive(Clone, Debug)]
pub struct Invocation {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    directory: Option<PathBuf>,
    limit: Option<Duration>,
}

impl Invocation {
    pub fn new(program: impl Into<OsString>) -> Self {
        Invocation {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            limit: None,
        }
    }

    pub fn cargo<const N: usize>(arguments: [&str; N]) -> Self {
        Invocation::new("cargo").args(arguments)
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Runs in `directory` instead of the workspace's root.
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Kills the program after `limit`. Not for programs that start others: those would keep running.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Runs it with this process's output, and records its duration for [`take_durations`].
    ///
    /// # Errors
    ///
    /// When it does not start, does not end in time, or ends with another status than 0.
    pub fn run(&self, root: impl AsRef<Path>) -> Result<(), Failure> {
        let root = root.as_ref();
        let mut child = self.start(root, Stdio::inherit())?;
        self.finish(root, &mut child)
    }

    /// Runs it and returns its standard output. If it fails, prints that output, which says why.
    ///
    /// # Errors
    ///
    /// As [`Invocation::run`], and when the output is not UTF-8.
    pub fn capture(&self, root: impl AsRef<Path>) -> Result<String, Failure> {
        let root = root.as_ref();
        let mut child = self.start(root, Stdio::piped())?;
        let mut pipe = child.stdout.take().ok_or_else(|| Failure::Missing("the child's output".into()))?;
        // A thread reads while this one waits: a child that fills the pipe would otherwise block.
        let reader = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let finished = self.finish(root, &mut child);
        let text = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")));
        if let Err(failure) = finished {
            print!("{}", text.unwrap_or_default());
            return Err(failure);
        }
        text.map_err(|error| Failure::Output { command: self.to_string(), problem: error.to_string() })
    }

    /// How long the commands since the last call took, in order.
    pub fn take_durations() -> Vec<(String, Duration)> {
        mem::take(&mut *DURATIONS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn start(&self, root: &Path, stdout: Stdio) -> Result<Child, Failure> {
        Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory(root))
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .map_err(|source| Failure::Start { command: self.to_string(), source })
    }

    fn finish(&self, root: &Path, child: &mut Child) -> Result<(), Failure> {
        let started = Instant::now();
        let ended = self.wait(root, child);
        DURATIONS.lock().unwrap_or_else(PoisonError::into_inner).push((self.to_string(), started.elapsed()));
        ended
    }

    fn wait(&self, root: &Path, child: &mut Child) -> Result<(), Failure> {
        let waiting = || format!("waiting for `{self}`");
        let status = match self.limit {
            None => child.wait().map_err(Failure::io(waiting()))?,
            Some(limit) => {
                let deadline = Instant::now() + limit;
                loop {
                    if let Some(status) = child.try_wait().map_err(Failure::io(waiting()))? {
                        break status;
                    }
                    if Instant::now() >= deadline {
                        child.kill().map_err(Failure::io(format!("killing `{self}`")))?;
                        child.wait().map_err(Failure::io(waiting()))?;
                        let directory = self.directory(root).to_owned();
                        return Err(Failure::TimedOut { command: self.to_string(), limit, directory });
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        if status.success() {
            return Ok(());
        }
        let directory = self.directory(root).to_owned();
        Err(Failure::Status { command: self.to_string(), status: status.to_string(), directory })
    }

    fn directory<'a>(&'a self, root: &'a Path) -> &'a Path {
        self.directory.as_deref().unwrap_or(root)
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        for argument in &self.arguments {
            write!(f, " {}", quoted(argument))?;
        }
        Ok(())
    }
}

/// Quotes a word for a POSIX shell.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation::new("sh").arg("-c").arg(script)
    }

    #[test]
    fn a_command_is_shown_as_a_shell_would_need_it() {
        let command = Invocation::cargo(["test", "a b"]).env("RUSTFLAGS", "--cfg loom");
        assert_eq!(command.to_string(), "RUSTFLAGS='--cfg loom' cargo test 'a b'");
    }

    #[test]
    fn a_failing_command_is_named() {
        let failure = shell("exit 3").run(".").unwrap_err();
        assert!(matches!(failure, Failure::Status { ref command, .. } if command == "sh -c 'exit 3'"));
    }

    #[test]
    fn a_command_past_its_limit_is_killed() {
        let failure = shell("exec sleep 60").limit(Duration::from_millis(50)).run(".").unwrap_err();
        assert!(matches!(failure, Failure::TimedOut { .. }), "{failure}");
    }

    #[test]
    fn output_larger_than_a_pipe_is_captured_whole() {
        let text = shell("yes | head -c 300000").limit(Duration::from_secs(60)).capture(".").unwrap();
        assert_eq!(text.len(), 300_000);
    }
}
