//! The watchdog's report, from child processes that hang on purpose.

use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dotcompute_conformance::watchdog::{EXIT_STATUS, TIMEOUT_ENV_VAR, Watchdog, watched};

/// Set for a child process; its tests hang.
const CHILD: &str = "DOTCOMPUTE_TEST_HANG";

fn child(test: &str, timeout_s: &str) -> (Output, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1").env(TIMEOUT_ENV_VAR, timeout_s);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[inline(never)]
fn wait_for_a_message_that_is_never_sent() {
    loop {
        std::thread::park();
    }
}

#[inline(never)]
fn spin_without_an_end() {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3600) {
        std::hint::spin_loop();
    }
}

#[inline(never)]
fn lock_a_held_lock(lock: &Mutex<()>) {
    drop(lock.lock());
}

#[test]
fn a_hung_test_is_reported_with_every_stack() {
    if is_child() {
        let watchdog = Watchdog::start("a test that hangs", Duration::from_secs(3600));
        watchdog.step("waiting for a message");
        let lock = Mutex::new(());
        let _held = lock.lock().unwrap();
        std::thread::scope(|scope| {
            let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
            thread("spinner").spawn_scoped(scope, spin_without_an_end).unwrap();
            thread("locker").spawn_scoped(scope, || lock_a_held_lock(&lock)).unwrap();
            wait_for_a_message_that_is_never_sent();
        });
    }
    let (output, report) = child("a_hung_test_is_reported_with_every_stack", "1");
    assert!(report.contains("`a test that hangs` has not ended after 1s"), "{report}");
    assert!(report.contains("last step: waiting for a message"), "{report}");
    #[cfg(target_os = "linux")]
    {
        assert_eq!(output.status.code(), Some(EXIT_STATUS), "{report}");
        assert!(
            report.contains("thread `spinner`, id ") && report.contains("thread `locker`, id "),
            "{report}"
        );
        for function in ["wait_for_a_message_that_is_never_sent", "spin_without_an_end", "lock_a_held_lock"] {
            assert!(report.contains(function), "{function}: {report}");
        }
        assert!(report.contains("tests/watchdog.rs:"), "source lines: {report}");
    }
    assert!(!output.status.success());
}

#[test]
fn the_macro_names_the_test() {
    if is_child() {
        dotcompute_conformance::watchdog!();
        drop(Watchdog::start("another", Duration::from_secs(3600)));
        dotcompute_conformance::watchdog::step("receiving");
        wait_for_a_message_that_is_never_sent();
    }
    let (output, report) = child("the_macro_names_the_test", "1");
    assert!(!output.status.success());
    assert!(report.contains("watchdog::the_macro_names_the_test` has not ended"), "{report}");
    assert!(report.contains("last step: receiving"), "{report}");
}

#[test]
fn a_test_that_ends_in_time_is_not_disturbed() {
    let value = watched("quick", Duration::from_secs(60), || 7);
    assert_eq!(value, 7);
    let watchdog = Watchdog::start("short limit", Duration::from_millis(200));
    drop(watchdog);
    std::thread::sleep(Duration::from_millis(400));
}

#[test]
fn the_environment_takes_precedence_over_limits() {
    if is_child() {
        let _watchdog = Watchdog::start("no limit", Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(300));
        return;
    }
    let (output, report) = child("the_environment_takes_precedence_over_limits", "0");
    assert!(output.status.success(), "{report}");
    let (output, report) = child("the_environment_takes_precedence_over_limits", "soon");
    assert!(!output.status.success() && report.contains("is not a number of seconds"), "{report}");
}
