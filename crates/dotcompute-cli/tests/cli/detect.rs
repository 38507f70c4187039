//! End-to-end tests of `dotcompute detect` and `dotcompute doctor`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn dotcompute(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dotcompute"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    dotcompute(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("the path is UTF-8").to_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).expect("the file is written");
        self.path(name)
    }

    /// 1000 minutes of a saw-tooth with a fault at minute 700.
    fn saw(&self, name: &str) -> String {
        let mut csv = String::from("timestamp,value\n");
        for minute in 0..1000 {
            let value = if minute == 700 { 90 } else { minute % 7 };
            csv += &format!("{},{value}\n", minute * 60);
        }
        self.file(name, csv)
    }
}

/// The window starts at the fault, at 11:40.
const WINDOWS: &str = r#"{"saw.csv": [["1970-01-01 11:40:00.000000", "1970-01-01 13:00:00.000000"]]}"#;

#[test]
fn finds_the_fault_and_writes_everything() {
    let folder = Folder::new();
    let (series, labels) = (folder.saw("saw.csv"), folder.file("windows.json", WINDOWS));
    let (csv, png) = (folder.path("out.csv"), folder.path("out.png"));
    let output = run(&["detect", &series, "--labels", &labels, "--output", &csv, "--plot", &png]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let message = text(&output.stdout);
    assert!(
        message.contains("1000 records, 1 alert; 1 of 1 windows found, 0 false; score 100.00"),
        "{message}"
    );
    assert!(message.contains("1970-01-01 11:40:00  value 90"), "{message}");
    let written = fs::read_to_string(csv).expect("the scores are written");
    assert_eq!(written.lines().next(), Some("series,timestamp,value,score,alert"));
    assert_eq!(written.lines().count(), 1001);
    assert_eq!(written.lines().filter(|line| line.ends_with(",1")).count(), 1);
    assert!(fs::read(png).expect("the picture is drawn").starts_with(b"\x89PNG"));
}

#[test]
fn json_is_one_document() {
    let folder = Folder::new();
    let (series, labels) = (folder.saw("saw.csv"), folder.file("windows.json", WINDOWS));
    let document = json(&run(&["detect", &series, "--labels", &labels, "--json"]));
    assert_eq!(document["nab"]["score"], 100.0);
    assert_eq!(document["series"][0]["alerts"][0]["timestamp"], "1970-01-01 11:40:00");
    assert_eq!(document["records"], 1000);
}

#[test]
fn each_series_has_its_own_state() {
    let folder = Folder::new();
    let (one, other) = (folder.saw("one.csv"), folder.saw("other.csv"));
    let document = json(&run(&["detect", &one, &other, "--json"]));
    assert_eq!(document["series"][0]["alerts"], document["series"][1]["alerts"]);
    assert_eq!(document["series"][1]["alerts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_threshold_applies() {
    let folder = Folder::new();
    let document = json(&run(&["detect", &folder.saw("saw.csv"), "--threshold", "0.99", "--json"]));
    assert_eq!(document["series"][0]["alerts"].as_array().map(Vec::len), Some(0));
}

#[test]
fn bad_input_exits_with_2_and_names_file_and_line() {
    let folder = Folder::new();
    let cases: [(&str, &[u8], &str); 9] = [
        ("empty", b"", "is empty"),
        ("bare", b"timestamp,value\n", "is empty"),
        ("columns", b"when,what\n1,2\n", ":1: the header is `when,what`"),
        ("text", b"timestamp,value\n1,2\n2,two\n", ":3: the value `two` is not a number"),
        ("infinite", b"timestamp,value\n1,inf\n", ":2: the value `inf` is not finite"),
        ("stamp", b"timestamp,value\nnow,1\n", ":2: `now` is not a timestamp"),
        ("unsorted", b"timestamp,value\n9000,1\n10,1\n", ":3: 1970-01-01 00:00:10 comes before"),
        ("fields", b"timestamp,value\n1,2,3\n", ":2: 3 fields"),
        ("latin", b"timestamp,value\n1,\xe9\n", ":2: the record is not UTF-8"),
    ];
    for (name, content, expected) in cases {
        let path = folder.file(&format!("{name}.csv"), content);
        let output = run(&["detect", &path]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(message.contains(&path) && message.contains(expected), "{name}: {message}");
        assert!(output.stdout.is_empty(), "{name}");
    }
}

#[test]
fn unusable_files_exit_with_2_and_are_named() {
    let folder = Folder::new();
    let series = folder.saw("saw.csv");
    let (missing, here) = (folder.path("missing.csv"), folder.path("."));
    let strange = folder.file("strange.json", r#"{"elsewhere.csv": []}"#);
    let broken = folder.file("broken.json", "{");
    let nowhere = folder.path("no/where.csv");
    let wrong = folder.path("picture.jpg");
    let cases: [(&[&str], &str); 7] = [
        (&[&missing], &missing),
        (&[&here], "is not a file"),
        (&[&series, "--labels", &missing], &missing),
        (&[&series, "--labels", &strange], "no entry for"),
        (&[&series, "--labels", &broken], &broken),
        (&[&series, "--output", &nowhere], &nowhere),
        (&[&series, "--plot", &wrong], &wrong),
    ];
    for (arguments, expected) in cases {
        let output = dotcompute(&["detect"]).args(arguments).output().expect("the program starts");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert_eq!(run(&["detect"]).status.code(), Some(2), "no file at all");
    assert_eq!(run(&["detect", &series, "--threshold", "2"]).status.code(), Some(2), "a threshold above 1");
}

#[test]
fn extreme_values_and_a_single_record_are_accepted() {
    let folder = Folder::new();
    let extreme = folder.file("extreme.csv", "timestamp,value\n1,1e308\n2,-1e308\n3,5e-324\n3,0\n");
    let single = folder.file("single.csv", "timestamp,value\n1,1\n");
    let output = run(&["detect", &extreme, &single, "--plot", &folder.path("out.png")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_not_a_failure() {
    let folder = Folder::new();
    let series = folder.saw("saw.csv");
    let mut child = dotcompute(&["detect", &series, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn doctor_checks_processor_memory_and_gpu() {
    let document = json(&run(&["doctor", "--json"]));
    let checks = document["checks"].as_array().expect("a list of checks");
    for name in ["processor", "cores", "memory", "CUDA driver"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}");
    }
    let plain = run(&["doctor"]);
    assert_eq!(text(&plain.stdout).matches("CUDA driver").count(), 1);
}

/// Asserts that scores on the emulated device equal those on the CPU, to the last digit.
fn same_scores(folder: &Folder, files: &[impl AsRef<std::ffi::OsStr>]) {
    let written = ["cpu", "emulated"].map(|backend| {
        let out = folder.path(backend);
        let mut command = dotcompute(&["detect", "--json", "--backend", backend, "--output", &out]);
        let document = json(&command.args(files).output().expect("the program starts"));
        assert_eq!(document["backend"], backend);
        fs::read_to_string(out).expect("the scores are there")
    });
    assert!(written[0].lines().count() > 1000 && written[0] == written[1]);
}

#[test]
fn a_device_and_the_cpu_give_equal_scores() {
    let folder = Folder::new();
    let files =
        [folder.saw("a.csv"), folder.file("b.csv", "timestamp,value\n0,1\n60,5\n"), folder.saw("c.csv")];
    same_scores(&folder, &files);
    match recordings() {
        None => eprintln!(
            "skipped: no labelled recordings; set DOTCOMPUTE_DATA to the folder that has nab/ in it"
        ),
        Some(recordings) => same_scores(&folder, &files_of(&recordings)),
    }
}

#[test]
fn the_error_of_a_missing_device_says_what_to_install() {
    let folder = Folder::new();
    let saw = folder.saw("saw.csv");
    let output = run(&["detect", "--backend", "cuda", &saw]);
    if output.status.success() {
        println!("skipped: this machine has a GPU");
        return;
    }
    let message = text(&output.stderr);
    assert!(
        message.contains("the cuda backend is not available") && message.contains("install"),
        "{message}"
    );
    assert_eq!(output.status.code(), Some(2));
    let output = run(&["detect", "--backend", "abacus", &saw]);
    assert!(text(&output.stderr).contains("cpu, cuda, emulated") && output.status.code() == Some(2));
}

/// Folder of the labelled recordings, if it exists.
fn recordings() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("DOTCOMPUTE_DATA").map_or(beside, PathBuf::from);
    let recordings = data.join("nab");
    recordings.is_dir().then_some(recordings)
}

fn files_of(recordings: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(recordings)
        .expect("the folder can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .flat_map(|path| fs::read_dir(path).expect("the folder can be listed"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

#[test]
fn scores_well_above_40_on_the_labelled_recordings() {
    let Some(folder) = recordings() else {
        eprintln!("skipped: no labelled recordings; set DOTCOMPUTE_DATA to the folder that has nab/ in it");
        return;
    };
    let files = files_of(&folder);
    assert_eq!(files.len(), 24);
    let output = dotcompute(&["detect", "--json", "--labels"])
        .arg(folder.join("windows.json"))
        .args(&files)
        .output()
        .expect("the program starts");
    let score = json(&output)["nab"]["score"].as_f64().expect("a score");
    // The score is 64.7; the margin covers rounding on other machines, not a worse detector.
    assert!(score > 60.0, "the score is {score}");
}
