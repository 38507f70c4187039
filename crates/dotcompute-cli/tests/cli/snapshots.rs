//! Snapshots of what `dotcompute` prints: help, errors and results.
//!
//! After an intended change run `INSTA_UPDATE=always cargo test -p dotcompute-cli --test cli snapshots` and review the difference.

use std::fs;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs the program in `folder`, at a fixed width and without settings from the environment.
fn dotcompute(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dotcompute"));
    command.args(arguments).current_dir(folder.path()).env("COLUMNS", "100");
    for variable in ["DOTCOMPUTE_DEVICE", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(variable);
    }
    command
}

/// The arguments, exit code and both outputs as one text. Output contains no colour codes, because it is not a terminal.
fn transcript(folder: &TempDir, arguments: &[&str]) -> String {
    let output = dotcompute(folder, arguments).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "escape codes in {stdout}{stderr}");
    // The program's file name has a suffix on Windows.
    format!(
        "$ dotcompute {}\nexit code: {}\n--- stdout\n{stdout}--- stderr\n{stderr}",
        arguments.join(" "),
        output.status.code().expect("the program exits by itself")
    )
    .replace("dotcompute.exe", "dotcompute")
}

/// Replaces what lies between `before` and `after` by `[n]`, once.
fn redact(text: &str, before: &str, after: &str) -> String {
    let start = text.find(before).expect("the text before the value") + before.len();
    let end = start + text[start..].find(after).expect("the text after the value");
    format!("{}[n]{}", &text[..start], &text[end..])
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("the file is written");
    }
    folder
}

/// 1000 minutes of a saw-tooth with a fault at minute 700, and the labels of the fault.
fn saw() -> TempDir {
    let mut csv = String::from("timestamp,value\n");
    for minute in 0..1000 {
        let value = if minute == 700 { 90 } else { minute % 7 };
        csv += &format!("{},{value}\n", minute * 60);
    }
    let windows = br#"{"saw.csv": [["1970-01-01 11:40:00", "1970-01-01 13:00:00"]]}"#;
    folder(&[("saw.csv", csv.as_bytes()), ("windows.json", windows)])
}

#[test]
fn help() {
    let folder = folder(&[]);
    assert_snapshot!("help", transcript(&folder, &["--help"]));
    for command in ["watch", "detect", "doctor"] {
        assert_snapshot!(format!("help_{command}"), transcript(&folder, &[command, "--help"]));
    }
}

#[test]
fn help_names_only_commands_that_exist() {
    let folder = folder(&[]);
    let help = transcript(&folder, &["--help"]);
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let listed = commands.expect("a list of commands").lines().filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["watch", "detect", "doctor", "help"]);
    for name in &names[..3] {
        let status = dotcompute(&folder, &[name, "--help"]).output().expect("the program starts").status;
        assert!(status.success(), "{name}");
    }
}

#[test]
fn argument_errors() {
    let folder = saw();
    assert_snapshot!("unknown_option", transcript(&folder, &["detect", "--colour", "saw.csv"]));
    assert_snapshot!("unknown_command", transcript(&folder, &["bench"]));
    assert_snapshot!("unknown_backend", transcript(&folder, &["detect", "--backend", "abacus", "saw.csv"]));
    assert_snapshot!("invalid_threshold", transcript(&folder, &["detect", "--threshold", "2", "saw.csv"]));
}

/// The operating system's text of "no such file" is that of Unix.
#[cfg(unix)]
#[test]
fn file_errors() {
    let folder = saw();
    assert_snapshot!("missing_file", transcript(&folder, &["detect", "missing.csv"]));
    assert_snapshot!("directory", transcript(&folder, &["detect", "."]));
    assert_snapshot!("missing_labels", transcript(&folder, &["detect", "saw.csv", "--labels", "none.json"]));
    assert_snapshot!(
        "unwritable_output",
        transcript(&folder, &["detect", "saw.csv", "--output", "no/out.csv"])
    );
    assert_snapshot!("unwritable_plot", transcript(&folder, &["detect", "saw.csv", "--plot", "out.jpg"]));
}

#[test]
fn series_errors() {
    let cases: [(&str, &[u8]); 7] = [
        ("empty_series", b"timestamp,value\n"),
        ("bad_header", b"when,what\n1,2\n"),
        ("bad_line", b"timestamp,value\n1,2\n2,two\n"),
        ("bad_timestamp", b"timestamp,value\nnow,1\n"),
        ("unsorted", b"timestamp,value\n9000,1\n10,1\n"),
        ("not_finite", b"timestamp,value\n1,inf\n"),
        ("not_utf8", b"timestamp,value\n1,\xe9\n"),
    ];
    for (name, content) in cases {
        let folder = folder(&[("load.csv", content)]);
        assert_snapshot!(name, transcript(&folder, &["detect", "load.csv"]));
    }
}

#[test]
fn detect_text() {
    let text = transcript(&saw(), &["detect", "saw.csv", "--labels", "windows.json"]);
    let text = redact(&redact(&text, "1 series in ", " ms"), "(cpu): ", " million");
    assert_snapshot!("detect_text", text);
}

#[test]
fn detect_json() {
    let output = dotcompute(&saw(), &["detect", "saw.csv", "--labels", "windows.json", "--json"]).output();
    let mut document: Value =
        serde_json::from_slice(&output.expect("the program starts").stdout).expect("one JSON document");
    assert!(document["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{document}");
    document["seconds"] = json!("[n]");
    assert_snapshot!("detect_json", format!("{document:#}"));
}

/// The list of checks and why each matters; status, findings and advice depend on the machine.
#[cfg(target_os = "linux")]
#[test]
fn doctor_checks() {
    let folder = folder(&[]);
    let output = dotcompute(&folder, &["doctor", "--json"]).output().expect("the program starts");
    let mut document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    for check in document["checks"].as_array_mut().expect("a list of checks") {
        assert!(["ok", "missing"].iter().any(|status| check["status"] == *status), "{check}");
        for field in ["status", "found", "advice"] {
            check[field] = json!(format!("[{field}]"));
        }
    }
    assert_snapshot!("doctor_checks", format!("{document:#}"));
}
