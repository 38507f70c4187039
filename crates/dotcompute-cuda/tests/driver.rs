//! The driver API layer, on the fake driver (`fake_driver/libcuda.c`), so that it is tested without a GPU.
//!
//! A process loads the library once and reads the environment once. Each scenario therefore runs in a child process, this program with
//! an environment variable set. There is no test harness, because it would start threads.

mod common;
mod fake_driver;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;

use cudarc::driver::result;
use dotcompute_conformance::watchdog::{DEFAULT_LIMIT, Watchdog};
use dotcompute_cuda::driver::{Driver, DriverError, Module, request_resident_settings};

/// Environment variable of a child process: its scenario.
const SCENARIO_ENV_VAR: &str = "DOTCOMPUTE_DRIVER_SCENARIO";

fn main() -> ExitCode {
    if let Some(scenario) = env::var_os(SCENARIO_ENV_VAR) {
        return match run_scenario(&scenario.to_string_lossy()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:?}\n{error}");
                ExitCode::SUCCESS
            }
        };
    }
    // Test runners request a list first; this program is one test.
    if env::args().any(|argument| argument == "--list") {
        println!("driver: test");
    } else if cfg!(target_os = "linux") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let _watchdog = Watchdog::start("driver", DEFAULT_LIMIT);
        fake_driver::build(folder.path());
        devices_are_listed(folder.path());
        settings_are_requested_where_that_is_sound(folder.path());
        an_unusable_driver_is_an_error_with_advice(folder.path());
        modules_are_loaded_eagerly(folder.path());
        a_machine_without_the_driver_gets_advice();
        println!("test driver ... ok");
    } else {
        println!("test driver ... ignored: the fake driver is for Linux");
    }
    ExitCode::SUCCESS
}

/// Runs a scenario in a child process; the parent checks what it prints.
fn run_scenario(scenario: &str) -> Result<(), DriverError> {
    match scenario {
        "open" => {
            let driver = Driver::open()?;
            println!("version {}, loading {}", driver.version(), driver.module_loading()?);
            println!("{}", driver.hardware_queues());
        }
        "devices" => {
            let driver = Driver::open()?;
            for device in driver.devices()? {
                println!("{device:#?}");
            }
            assert_eq!(driver.device(1)?, driver.devices()?[1]);
            driver.device(2)?;
        }
        "threads" => {
            let (end_tx, end_rx) = mpsc::channel::<()>();
            let other = thread::spawn(move || end_rx.recv().is_err());
            println!("requested {}", request_resident_settings());
            let driver = Driver::open()?;
            println!("loading {}\n{}", driver.module_loading()?, driver.hardware_queues());
            drop(end_tx);
            assert!(other.join().expect("the other thread"));
        }
        "other first" => {
            result::init().map_err(|error| DriverError::OutOfMemory { doing: error.to_string() })?;
            println!("{}", Driver::open()?.hardware_queues());
        }
        "module" => {
            let Some(toolchain) = common::toolchain() else { return Ok(()) };
            let cubin = toolchain.compile(&common::scale(common::ARCHITECTURES[1])).expect("a kernel").cubin;
            let context = Driver::open()?.device(0)?.context()?;
            let module = Module::load(&context, &cubin)?;
            println!("loaded on {}", module.context().ordinal());
        }
        other => panic!("no scenario {other}"),
    }
    Ok(())
}

/// Runs this program for one scenario and returns its output.
fn child(scenario: &str, fake: Option<&Path>, environment: &[(&str, &str)]) -> String {
    let program = env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command
        .env_remove("CUDA_MODULE_LOADING")
        .env_remove("CUDA_DEVICE_MAX_CONNECTIONS")
        .env(SCENARIO_ENV_VAR, scenario)
        .envs(environment.iter().copied());
    if let Some(folder) = fake {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let output = command.output().expect("a child process");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text");
    assert!(output.status.success(), "{scenario} {environment:?}: {}\n{text}", output.status);
    text
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

fn devices_are_listed(fake: &Path) {
    let text = child("devices", Some(fake), &[]);
    let first = [
        "index: 0",
        "\"Fake 0\"",
        "major: 9,\n        minor: 0",
        "pci: \"0000:1a:00.0\"",
        "memory: 137438953472",
    ];
    let second = [
        "index: 1",
        "\"Fake 1\"",
        "major: 9,\n        minor: 1",
        "pci: \"0000:1b:00.0\"",
        "memory: 274877906944",
    ];
    contains(&text, &first);
    contains(&text, &second);
    // Attributes: the fake driver returns the number of each in cuda.h.
    contains(
        &text,
        &["multiprocessors: 16,", "threads_per_multiprocessor: 39,", "blocks_per_multiprocessor: 106,"],
    );
    contains(
        &text,
        &["registers_per_multiprocessor: 82,", "shared_per_multiprocessor: 81,", "shared_per_block: 97,"],
    );
    contains(&text, &["there is no CUDA device 2: this process sees 2"]);
}

fn settings_are_requested_where_that_is_sound(fake: &Path) {
    let text = child("open", Some(fake), &[]);
    contains(&text, &["version 13.0, loading eagerly", "CUDA_MODULE_LOADING=EAGER"]);
    contains(&text, &["CUDA_DEVICE_MAX_CONNECTIONS=32", "32 hardware queues (CUDA_DEVICE_MAX_CONNECTIONS)"]);
    // A value set by the user is kept, and the environment of a process with several threads is not changed.
    let text = child("open", Some(fake), &[("CUDA_MODULE_LOADING", "LAZY")]);
    contains(&text, &["loading lazily", "CUDA_MODULE_LOADING=LAZY"]);
    let text = child("threads", Some(fake), &[]);
    contains(
        &text,
        &["requested false", "loading lazily", "CUDA_MODULE_LOADING=, CUDA_DEVICE_MAX_CONNECTIONS=\n"],
    );
    contains(&text, &["8 hardware queues (the default: CUDA_DEVICE_MAX_CONNECTIONS is not set)"]);
    let text = child("threads", Some(fake), &[("CUDA_MODULE_LOADING", "EAGER")]);
    contains(&text, &["requested false", "loading eagerly"]);
    let both = [("CUDA_MODULE_LOADING", "EAGER"), ("CUDA_DEVICE_MAX_CONNECTIONS", "32")];
    contains(
        &child("threads", Some(fake), &both),
        &["requested true", "loading eagerly", "32 hardware queues"],
    );
    let text = child("open", Some(fake), &[("CUDA_DEVICE_MAX_CONNECTIONS", "4")]);
    contains(&text, &["4 hardware queues (CUDA_DEVICE_MAX_CONNECTIONS)", "CUDA_DEVICE_MAX_CONNECTIONS=4"]);
    // What the driver has read cannot be changed, so nothing is set after it has been initialised.
    let text = child("other first", Some(fake), &[]);
    contains(&text, &["8 hardware queues (the default: other code initialised CUDA first"]);
    assert!(!text.contains("CUDA_DEVICE_MAX_CONNECTIONS=32"), "{text}");
}

fn an_unusable_driver_is_an_error_with_advice(fake: &Path) {
    let text = child("open", Some(fake), &[("FAKE_VERSION", "12020")]);
    contains(&text, &["TooOld", "the CUDA driver is for CUDA 12.2, and 12.4 is the oldest"]);
    assert!(!text.contains("cuInit"), "a driver that is too old is not initialized: {text}");
    let text = child("open", Some(fake), &[("FAKE_INIT", "100")]);
    contains(&text, &["Unavailable", "it finds no device", "CUDA_VISIBLE_DEVICES"]);
    let text = child("open", Some(fake), &[("FAKE_INIT", "34")]);
    contains(&text, &["Unavailable", "stub", "LD_LIBRARY_PATH"]);
    let text = child("open", Some(fake), &[("FAKE_INIT", "803")]);
    contains(
        &text,
        &[
            "initialising: the fake driver was set to fail (CUDA_ERROR_OF_THE_FAKE, code 803)",
            "restart the machine",
        ],
    );
}

fn modules_are_loaded_eagerly(fake: &Path) {
    let text = child("module", Some(fake), &[]);
    if text.contains("skipped: ") {
        println!("{text}");
        return;
    }
    contains(
        &text,
        &["loaded on 0", "cuModuleLoadData 1", "cuFuncLoad 0x50", "cuFuncLoad 0x51", "cuFuncLoad 0x52"],
    );
    contains(&text, &["cuModuleUnload 0x50", "release 100"]);
    let text = child("module", Some(fake), &[("FAKE_LOAD", "209")]);
    contains(
        &text,
        &["bytes of code onto device 0", "code 209", "compile it for this device's architecture"],
    );
    contains(&text, &["cuModuleUnload 0x50"]);
}

/// Passes on a machine with a driver, too: there the scenario succeeds.
fn a_machine_without_the_driver_gets_advice() {
    let text = child("open", None, &[]);
    if !text.contains("loading eagerly") {
        contains(&text, &["Unavailable", "the CUDA driver cannot be used: ", "; "]);
    }
}
