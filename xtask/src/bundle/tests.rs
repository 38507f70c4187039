use std::process::Command;

use serde_json::Value;

use super::program::{Glibc, required_glibc};
use super::*;

#[test]
fn the_newest_version_of_the_c_library_counts() {
    let symbols = "0000 DF *UND* 0000 (GLIBC_2.2.5) free\n0000 DF *UND* 0000 (GLIBC_2.34) pthread_create\n\
                   0000 DF *UND* 0000 (GLIBC_2.9) x\n0000 DF *UND* 0000 (GLIBC_PRIVATE) y\n";
    assert_eq!(required_glibc(symbols), Glibc(2, 34));
    assert_eq!(required_glibc("no symbols"), Glibc(0, 0));
}

#[test]
fn what_is_left_out_is_there() {
    let tests = Workspace::find().unwrap().targets("dotcompute-cuda", "test").unwrap();
    assert!(WITHOUT_A_GPU.iter().all(|name| tests.iter().any(|test| test == name)), "{tests:?}");
    assert!(tests.iter().any(|test| test == "cuda"));
}

/// Writes an executable shell script.
fn program(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A bundle whose tests pass, fail, hang, are skipped, and are not run.
const TESTS: &str = r#"case "$1" in
--list) for name in fine broken hangs skips all_tests_pass_on_the_fake_driver calls_that_wait; do echo "$name: test"; done ;;
fine) echo 'a "quoted" \ word' ;;
broken) echo "it said	so"; exit 101 ;;
hangs) trap '' TERM; while :; do sleep 1; done ;;
skips) echo "test skips ... skipped: there is no GPU" ;;
calls_that_wait) echo "test calls_that_wait ... cuMemFree: 12.500"; echo "cuMemAlloc: 0.250"; echo "a word: not a number" ;;
*) exit 1 ;;
esac"#;

/// A Python interpreter that has every package and prints its arguments.
const PYTHON: &str = r#"case "$1 $2" in
"-m pip") [ "$3" = install ] ;;
"-m pytest") echo "$PYTHONPATH" | grep -q . && echo "$@" ;;
*) true ;;
esac"#;

fn run(bench: &str) -> (bool, Value) {
    let folder =
        std::env::temp_dir().join(format!("dotcompute-bundle-{}-{}", std::process::id(), bench.len()));
    program(&folder, "tests/suite", TESTS);
    program(&folder, "tests/wont_start", "exit 127");
    program(&folder, "examples/device", "true");
    // `detect FILE --backend NAME --output FILE`: writes the same scores for every device.
    program(
        &folder,
        "bin/dotcompute",
        r#"if [ "$1" = detect ]; then wc -l "$2" > "$6"; echo "$4"; else echo '{}'; fi"#,
    );
    program(&folder, "bin/dotcompute-bench", bench);
    program(&folder, "path/python3", PYTHON);
    for (name, text) in [("gpu", "@pytest.mark.cuda"), ("host", "import something_that_this_machine_lacks")] {
        program(&folder, &format!("python/tests/unit/test_{name}.py"), text);
    }
    write_script(&folder.join("run.sh")).unwrap();
    let mut script = Command::new(folder.join("run.sh"));
    let path = std::env::var("PATH").unwrap();
    script.env("PATH", format!("{}:{path}", folder.join("path").display()));
    script.env("LIMIT_TEST", "2").env("DOTCOMPUTE_DEVICE", "emulated").env_remove("OUT");
    let output = script.output().unwrap();
    let results = fs::read_to_string(folder.join("out/results.json")).unwrap();
    let results = serde_json::from_str(&results).unwrap_or_else(|error| panic!("{error}\n{results}"));
    fs::remove_dir_all(folder).unwrap();
    (output.status.success(), results)
}

/// The status of a test.
fn status<'a>(results: &'a Value, name: &str) -> &'a str {
    let tests = results["tests"].as_array().unwrap();
    tests.iter().find(|test| test["test"] == name).map_or("", |test| test["status"].as_str().unwrap())
}

#[test]
fn the_script_runs_each_test_alone_and_leaves_json() {
    let (good, results) = run(r#"[ "$1" = gpu ] && echo '{"bench":"gpu_ask","subject":"floor","p50":1}'"#);
    assert!(!good, "some failed");
    let expected = [
        ("fine", "passed"),
        ("broken", "failed"),
        ("hangs", "timeout"),
        ("skips", "skipped"),
        ("all_tests_pass_on_the_fake_driver", ""),
        ("--list", "failed"),
        ("device", "passed"),
        ("gpu", "passed"),
        ("doctor", "passed"),
        ("detect", "passed"),
        ("pytest -m cuda", "passed"),
    ];
    for (name, expected) in expected {
        assert_eq!(status(&results, name), expected, "{name}: {results:#}");
    }
    assert_eq!(results["failed"], 3);
    let tests = results["tests"].as_array().unwrap();
    let asked = tests.iter().find(|test| test["program"] == "python").unwrap()["tail"].as_str().unwrap();
    assert!(
        asked.contains("-m cuda") && asked.contains("test_gpu.py") && !asked.contains("test_host.py"),
        "{asked}"
    );
    assert_eq!(results["coexistence"][0]["call"], "cuMemFree");
    assert_eq!(results["coexistence"][0]["milliseconds"], 12.5);
    assert_eq!(results["coexistence"][1]["milliseconds"], 0.25);
    assert!(results["coexistence"][2].is_null());
    assert_eq!(results["bench"][0]["p50"], 1);
    let said = |index: usize| results["tests"][index]["tail"].as_str().unwrap();
    assert_eq!((said(1), said(2)), ("a \"quoted\" \\ word", "it said\tso"));
}

#[test]
fn a_bench_that_stops_the_run_leaves_the_others() {
    let (_, results) = run(r#"case "$*" in
        *--list*) echo gpu_ask; echo gpu_launch ;;
        *"--only gpu_ask"*) echo '{"bench":"gpu_ask"}' ;;
        *) exit 1 ;;
        esac"#);
    assert_eq!(
        ["gpu", "gpu_ask", "gpu_launch"].map(|name| status(&results, name)),
        ["failed", "passed", "failed"]
    );
    assert_eq!(results["bench"].as_array().unwrap().len(), 1);
}
