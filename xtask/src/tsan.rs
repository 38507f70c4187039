//! The tests of the emulated device under ThreadSanitizer. Device code and Rust code are both instrumented.
//!
//! Only races that involve device code count. Races between two accesses of Rust code are ignored: the standard library is not instrumented, so
//! its locks and the reference counts of `Arc` cause false reports. Rust code is checked by the type system, and `unsafe` code by loom.
//!
//! A run without reports proves little on its own. The tests therefore also run with faults seeded into the device code, which must be reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Failure, Invocation};
use crate::tsan_report::Race;
use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `ThreadSanitizer` is an unstable option of the stable compiler. The program exports its symbols for the device code, which is
/// linked without a runtime.
const RUSTFLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Clink-arg=-rdynamic";

/// Flags for the C++ compiler: instrumentation without a second runtime. Exceptions would need a library, and devices have none.
const CXXFLAGS: &str = "-fsanitize=thread -fno-exceptions -nodefaultlibs";

/// File name of a ring kernel that the emulated device has compiled.
const LIBRARY: &str = "kernel.so";

/// Suppressed false reports. ThreadSanitizer does not see what orders the release of this memory after its last use: the fence in the last drop of
/// an `Arc`, and the C library, which frees thread-local variables after the end of the thread.
const SUPPRESSIONS: &str = "race:alloc::sync::Arc<*>>::drop_slow\nrace:_dl_deallocate_tls\n";

/// Faults for the device code, and the compiler flags that seed them.
const SEEDED_FAULTS: [(&str, &str); 2] = [
    ("publishing without release", "-U__ATOMIC_RELEASE -D__ATOMIC_RELEASE=__ATOMIC_RELAXED"),
    ("polling without acquire", "-U__ATOMIC_ACQUIRE -D__ATOMIC_ACQUIRE=__ATOMIC_RELAXED"),
];

/// A short test that sends messages both ways, for the seeded faults.
const SHORT: &str = "threads_take_a_message_each";

/// Tests that are left out, because instrumented they take most of the time and execute no device code that others do not: thousands of
/// messages or relaunches, each of which starts threads, and tests that differ from one shape to the next on the host only.
const LEFT_OUT: [&str; 8] = [
    "a_busy_kernel_leaves_periodically_and_loses_no_message",
    "a_million_messages_arrive_in_order",
    "quiesced_kernels_are_relaunched_with_the_messages_sent_meanwhile",
    "many_kernels_terminated_at_once_all_end",
    "block_shape::it_works_at_either_end_of_a_pipeline_and_full_outputs_block_it",
    "grid_shape::it_works_at_either_end_of_a_pipeline_and_full_outputs_block_it",
    "block_shape::replies_to_told_messages_are_dropped_and_counted",
    "grid_shape::replies_to_told_messages_are_dropped_and_counted",
];

/// Begins the summary of a test program in which every test has run and passed.
const PASSED: &str = "test result: ok.";

/// Time limit, well above the usual duration: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(900);

/// Races that are printed in full.
const MAX_SHOWN: usize = 5;

/// Runs the tests, and a short one with each fault. Without ThreadSanitizer, prints why and skips them.
///
/// # Errors
///
/// When a test fails, a race with device code is reported, or a seeded one is not.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    if let Some(reason) = missing(workspace)? {
        println!("skipped: {reason}");
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

    for (fault, flags) in SEEDED_FAULTS {
        let (races, _) = tests.run("seeded", flags, &["--exact", SHORT])?;
        if races.is_empty() {
            return Err(Failure::SeededFaultMissed { fault });
        }
        println!("caught: {} reports for device code with a seeded fault ({fault})\n", races.len());
    }
    let (races, log) = tests.run("tests", "", &LEFT_OUT.map(|test| ["--skip", test]).concat())?;
    for race in races.iter().take(MAX_SHOWN) {
        println!("{race}\n");
    }
    if races.is_empty() { Ok(()) } else { Err(Failure::Races { count: races.len(), log }) }
}

/// Why ThreadSanitizer is not available, if it is not.
fn missing(workspace: &Workspace) -> Result<Option<String>, Failure> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(Some(format!("ThreadSanitizer is set up for {TARGET} only")));
    }
    let ask = Invocation::new("rustc").args(["--print", "target-libdir"]);
    let libraries = PathBuf::from(ask.capture(workspace)?.trim_end());
    let files = fs::read_dir(&libraries).map_err(Failure::io(format!("reading {}", libraries.display())))?;
    let is_runtime = |file: fs::DirEntry| file.file_name().to_string_lossy().ends_with("_rt.tsan.a");
    let found = files.filter_map(Result::ok).any(is_runtime);
    Ok((!found).then(|| format!("this toolchain has no ThreadSanitizer runtime in {}", libraries.display())))
}

/// The instrumented tests.
struct Tests<'a> {
    workspace: &'a Workspace,
    program: &'a Path,
    folder: &'a Path,
}

impl Tests<'_> {
    /// Runs the tests with more flags for the device code. Returns the races with device code and the folder of all reports.
    fn run(&self, name: &str, flags: &str, arguments: &[&str]) -> Result<(Vec<Race>, PathBuf), Failure> {
        let log = self.folder.join(format!("{name}-reports"));
        let (kernels, suppressions) = (log.join("kernels"), log.join("suppressions.txt"));
        if log.exists() {
            fs::remove_dir_all(&log).map_err(Failure::io(format!("removing {}", log.display())))?;
        }
        fs::create_dir_all(&kernels).map_err(Failure::io(format!("creating {}", kernels.display())))?;
        fs::write(&suppressions, SUPPRESSIONS)
            .map_err(Failure::io(format!("writing {}", suppressions.display())))?;

        // Reports are evaluated below. `exitcode` replaces the status of the tests if there are any, so the summary of the tests decides.
        // A test requests more memory than there is; by default ThreadSanitizer ends the process for that.
        let options = format!(
            "exitcode=0 allocator_may_return_null=1 history_size=7 print_suppressions=0 log_path={} suppressions={}",
            log.join("log").display(),
            suppressions.display()
        );
        let tests = Invocation::new(self.program)
            .args(arguments)
            .env("TSAN_OPTIONS", options)
            .env("DOTCOMPUTE_EMULATED_CXXFLAGS", format!("{CXXFLAGS} {flags}").trim_end())
            // Reports can name source lines only while the compiled files exist.
            .env("DOTCOMPUTE_EMULATED_KEEP", &kernels)
            .limit(LIMIT);
        println!("{tests}");
        let output = tests.capture(self.workspace)?;
        print!("{output}");
        if !output.contains(PASSED) {
            let problem =
                format!("no line `{PASSED}`: a test failed, or the process ended before its last test");
            return Err(Failure::Output { command: tests.to_string(), problem });
        }

        let reported = read_logs(&log)?;
        let (races, others): (Vec<Race>, Vec<Race>) =
            reported.into_iter().partition(|race| race.is_in(LIBRARY));
        println!(
            "{} races with device code; ignored {} reports between accesses of Rust code, as the standard library is not \
             instrumented",
            races.len(),
            others.len()
        );
        Ok((races, log))
    }
}

/// The reports of all processes; each process writes its own file.
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
