//! End-to-end tests of `dotcompute watch`.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Starts `dotcompute watch` in `folder`.
fn watch(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dotcompute"));
    command.arg("watch").args(arguments).current_dir(folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for the program to exit; kills it after a minute.
fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("the program can be waited for").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("the program can be killed");
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output can be read")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the program writes UTF-8")
}

#[test]
fn prints_a_report_and_draws_a_timeline() {
    let folder = tempfile::tempdir().unwrap();
    let output = wait(watch(folder.path(), &["--seconds", "1.5", "--interval", "200", "--json"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");

    let readings = document["report"]["readings"].as_u64().unwrap();
    let series = document["report"]["series"].as_array().unwrap();
    assert!(readings > 0 && series.len() > 3, "{document}");
    let counted: u64 = series.iter().map(|one| one["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, readings, "every reading belongs to a series");
    let kernels = document["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 3);
    for kernel in kernels {
        let count = |what: &str| kernel[what].as_u64().unwrap();
        assert_eq!(count("sent"), count("handled") + count("dead_letters") + count("queued"), "{kernel}");
        assert_eq!(
            (count("dead_letters"), count("queued")),
            (0, 0),
            "no message is lost or queued: {kernel}"
        );
        assert!(count("handled") > 0, "{kernel}");
    }
    let picture = std::fs::read(folder.path().join(document["plot"].as_str().unwrap())).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
}

#[test]
fn the_detector_runs_on_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--seconds", "1.5", "--interval", "200", "--json", "--backend", "emulated"];
    let output = wait(watch(folder.path(), &arguments));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(document["backend"], "emulated");
    let ticks = document["kernels"][0]["handled"].as_u64().unwrap();
    let on_device = &document["kernels"][3];
    assert_eq!(on_device["kernel"], "on-device");
    assert!(ticks > 0 && on_device["handled"].as_u64().unwrap() >= ticks, "{document}");
    assert!(document["report"]["readings"].as_u64().unwrap() > ticks);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_watch_with_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let child = watch(folder.path(), &["--interval", "200"]);
    std::thread::sleep(Duration::from_millis(800));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = wait(child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    for part in ["Watched", "sampler", "detector", "reporter", "p99", "Timeline: timeline.png"] {
        assert!(stdout.contains(part), "no `{part}` in {stdout}");
    }
    assert!(folder.path().join("timeline.png").exists());
}

#[test]
fn invalid_arguments_fail_before_sampling() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let cases: &[(&[&str], &str)] = &[
        (&["--seconds", "3000", "--plot", "missing/timeline.png"], "missing/timeline.png"),
        (&["--seconds", "3000", "--plot", "."], "drawing ."),
        (&["--seconds", "0"], "greater than 0"),
        (&["--seconds", "-1"], "greater than 0"),
        (&["--seconds", "1e99"], "at most 1e9"),
        (&["--seconds", "soon"], "--seconds"),
        (&["--interval", "5"], "--interval"),
        (&["--interval", "-5"], "--interval"),
        (&["--threshold", "1.5"], "between 0 and 1"),
        (&["--threshold", "-0.5"], "between 0 and 1"),
    ];
    for (arguments, named) in cases {
        let output = wait(watch(folder.path(), arguments));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file remains");
}
