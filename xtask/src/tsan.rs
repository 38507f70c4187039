//! The emulated device's tests under ThreadSanitizer, the device code and the Rust around it both instrumented.
//!
//! What is judged is the traffic with the device: of two accesses without an order, one was made by device code. Between two places of Rust
//! there are false reports, since the standard library comes compiled and without instruments: its locks and the counts of its `Arc` are
//! not seen. There the type system judges, and loom for what is `unsafe`.
//!
//! A run that reports nothing might see nothing. So the tests are run with faults seeded into the device code too, and those must
//! be reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Failure, Invocation};
use crate::races::Race;
use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `ThreadSanitizer` is an unstable option of the stable compiler. The program's symbols are exported for the device code, which has no
/// runtime of its own.
const RUSTFLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Clink-arg=-rdynamic";

/// For the C++ compiler: instruments, and no second runtime. Exceptions, which no device has, would need a library.
const CXXFLAGS: &str = "-fsanitize=thread -fno-exceptions -nodefaultlibs";

/// What the emulated device calls a ring kernel that it has compiled.
const LIBRARY: &str = "kernel.so";

/// False reports, each of memory that is freed after its last use by an order that ThreadSanitizer does not see: by whoever is the last to
/// let go of an `Arc`, which orders that by a fence; a thread's own variables by the C library, once the thread is gone.
const SUPPRESSIONS: &str = "race:alloc::sync::Arc<*>>::drop_slow\nrace:_dl_deallocate_tls\n";

/// Faults for the device code, and how the C++ compiler makes them.
const SEEDS: [(&str, &str); 2] = [
    ("it publishes without release", "-U__ATOMIC_RELEASE -D__ATOMIC_RELEASE=__ATOMIC_RELAXED"),
    ("it looks without acquire", "-U__ATOMIC_ACQUIRE -D__ATOMIC_ACQUIRE=__ATOMIC_RELAXED"),
];

/// A short test that sends messages both ways, for the seeded faults.
const SHORT: &str = "threads_take_a_message_each";

/// Far above what all the tests take, so that only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(900);

/// Races that are printed in full.
const SHOWN: usize = 5;

/// Runs the tests, and a short one with each fault. Where ThreadSanitizer is not to be had, says so.
///
/// # Errors
///
/// When a test fails, a race with device code is reported, or a seeded one is not.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    if let Some(reason) = missing(workspace)? {
        println!("left out: {reason}");
        return Ok(());
    }
    let folder = workspace.target_dir().join("tsan");
    let build = Invocation::cargo(["test", "--package", "dotcompute-cuda", "--test", "emulated", "--no-run"])
        .args(["--target", TARGET])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_DIR", &folder);
    println!("{build}");
    let program = workspace.build_executable(&build, "emulated")?;
    let tests = Tests { workspace, program: &program, folder: &folder };

    for (fault, flags) in SEEDS {
        let (races, _) = tests.run("seeded", flags, &["--exact", SHORT])?;
        if races.is_empty() {
            return Err(Failure::Blind { fault });
        }
        println!("caught: device code with a fault ({fault}) gave {} reports\n", races.len());
    }
    let (races, log) = tests.run("tests", "", &[])?;
    for race in races.iter().take(SHOWN) {
        println!("{race}\n");
    }
    if races.is_empty() { Ok(()) } else { Err(Failure::Races { count: races.len(), log }) }
}

/// Why there is no ThreadSanitizer here.
fn missing(workspace: &Workspace) -> Result<Option<String>, Failure> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(Some(format!("ThreadSanitizer is set up for {TARGET} only, and this is another")));
    }
    let ask = Invocation::new("rustc").args(["--print", "target-libdir"]);
    let libraries = PathBuf::from(ask.capture(workspace)?.trim_end());
    let files = fs::read_dir(&libraries).map_err(Failure::io(format!("reading {}", libraries.display())))?;
    let is_runtime = |file: fs::DirEntry| file.file_name().to_string_lossy().ends_with("_rt.tsan.a");
    let found = files.filter_map(Result::ok).any(is_runtime);
    Ok((!found)
        .then(|| format!("this toolchain has no runtime of ThreadSanitizer in {}", libraries.display())))
}

/// The instrumented tests.
struct Tests<'a> {
    workspace: &'a Workspace,
    program: &'a Path,
    folder: &'a Path,
}

impl Tests<'_> {
    /// Runs the tests with more flags for the device code. Gives the races with device code, and where all reports are.
    fn run(&self, name: &str, flags: &str, arguments: &[&str]) -> Result<(Vec<Race>, PathBuf), Failure> {
        let log = self.folder.join(format!("{name}-reports"));
        let (kernels, suppressions) = (log.join("kernels"), log.join("suppressions.txt"));
        if log.exists() {
            fs::remove_dir_all(&log).map_err(Failure::io(format!("removing {}", log.display())))?;
        }
        fs::create_dir_all(&kernels).map_err(Failure::io(format!("creating {}", kernels.display())))?;
        fs::write(&suppressions, SUPPRESSIONS)
            .map_err(Failure::io(format!("writing {}", suppressions.display())))?;

        // The status is the tests' own: reports are judged here.
        let options = format!(
            "exitcode=0 history_size=7 print_suppressions=0 log_path={} suppressions={}",
            log.join("log").display(),
            suppressions.display()
        );
        let tests = Invocation::new(self.program)
            .args(arguments)
            .env("TSAN_OPTIONS", options)
            .env("DOTCOMPUTE_EMULATED_CXXFLAGS", format!("{CXXFLAGS} {flags}").trim_end())
            // Reports name the lines of what can still be read.
            .env("DOTCOMPUTE_EMULATED_KEEP", &kernels)
            .limit(LIMIT);
        println!("{tests}");
        tests.run(self.workspace)?;

        let reported = read_logs(&log)?;
        let (races, others): (Vec<Race>, Vec<Race>) =
            reported.into_iter().partition(|race| race.is_in(LIBRARY));
        println!(
            "{} races with device code; {} reports between two places of Rust were left out, as the locks of the standard \
             library are not seen",
            races.len(),
            others.len()
        );
        Ok((races, log))
    }
}

/// The reports of all processes that wrote some: each has a file of its own.
fn read_logs(folder: &Path) -> Result<Vec<Race>, Failure> {
    let wrong = |error| Failure::io(format!("reading the reports in {}", folder.display()))(error);
    let mut races = Vec::new();
    for file in fs::read_dir(folder).map_err(wrong)? {
        let path = file.map_err(wrong)?.path();
        if path.file_stem().is_some_and(|stem| stem == "log") {
            let text = fs::read(&path).map_err(wrong)?;
            races.extend(Race::read(&String::from_utf8_lossy(&text)));
        }
    }
    Ok(races)
}
