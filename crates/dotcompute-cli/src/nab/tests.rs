use super::*;

const WINDOWS: [Window; 2] = [Window { first: 300, last: 399 }, Window { first: 600, last: 699 }];

fn raw(alerts: &[usize]) -> f64 {
    score(1000, &WINDOWS, alerts, &STANDARD).raw
}

fn close(left: f64, right: f64) {
    assert!((left - right).abs() < 1e-9, "{left} is not {right}");
}

#[test]
fn silence_scores_0_and_perfection_100() {
    assert_eq!(score(1000, &WINDOWS, &[], &STANDARD).normalised(), Some(0.0));
    assert_eq!(score(1000, &WINDOWS, &[300, 600], &STANDARD).normalised(), Some(100.0));
    assert_eq!(score(1000, &[], &[700], &STANDARD).normalised(), None);
}

#[test]
fn worth_falls_along_the_window() {
    // The 51st of 100 records is the middle: (2 / (1 + e^-2.5) - 1) / (2 / (1 + e^-5) - 1), beside one missed window.
    close(raw(&[350]), 0.848_283_639_957_512_9 / 0.986_614_298_151_43 - 1.0);
    // The last record is a hundredth before the right edge.
    close(raw(&[399]), 0.024_994_792_968_420_7 / 0.986_614_298_151_43 - 1.0);
}

#[test]
fn only_the_earliest_detection_in_a_window_counts() {
    close(raw(&[300, 350, 399]), raw(&[300]));
    close(raw(&[399, 310]), raw(&[310]));
}

#[test]
fn false_positives_cost_more_with_the_distance_from_a_window() {
    // Before any window: all of 0.11. The two windows are missed.
    close(raw(&[200]), -2.11);
    // 99 records, one width, after the first window: 0.11 * (2 / (1 + e^5) - 1).
    close(raw(&[498]), -2.0 - 0.11 * 0.986_614_298_151_43);
    // Three widths and more after the second one: all of it again.
    close(raw(&[996]), -2.11);
    let (near, far) = (raw(&[400]), raw(&[450]));
    assert!(near > far, "{near} is not above {far}");
}

#[test]
fn each_false_positive_counts() {
    close(raw(&[200, 201, 202]), -2.33);
    assert_eq!(score(1000, &WINDOWS, &[200, 201, 300], &STANDARD).false_positives, 2);
}

#[test]
fn detections_in_probation_do_not_count() {
    close(raw(&[0, 149]), -2.0);
    close(raw(&[150]), -2.11);
    let early = [Window { first: 10, last: 20 }];
    assert_eq!(score(1000, &early, &[15], &STANDARD).missed, 0);
}

/// The same arithmetic in another shape: record by record, with the window that the walk is in or has left.
fn walk(records: usize, windows: &[Window], alerts: &[usize]) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let shape = |y: f64| if y >= 3.0 { -1.0 } else { 2.0 * sigmoid(-5.0 * y) - 1.0 };
    let begin = (0.15 * records as f64).floor().min(0.15 * 5000.0) as usize;
    let mut sum: f64 = 0.0;
    let mut left: Option<&Window> = None;
    let mut index = 0;
    while index < records {
        if let Some(window) = windows.iter().find(|window| window.first == index) {
            let width = (window.last + 1 - window.first) as f64;
            let hit = (window.first..=window.last).find(|i| *i >= begin && alerts.contains(i));
            sum += match hit {
                Some(i) => shape((i as f64 - window.last as f64 - 1.0) / width) / shape(-1.0),
                None => -1.0,
            };
            left = Some(window);
            index = window.last + 1;
            continue;
        }
        if index >= begin && alerts.contains(&index) {
            sum += 0.11
                * left.map_or(-1.0, |window| {
                    shape((index - window.last) as f64 / (window.last - window.first) as f64)
                });
        }
        index += 1;
    }
    sum
}

#[test]
fn agrees_with_a_walk_along_the_series() {
    // A fixed linear congruential sequence: many sets of alerts, dense and sparse, reproducible.
    let mut state = 1_u64;
    for round in 0..200 {
        let mut alerts = Vec::new();
        for index in 0..1000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (state >> 33).is_multiple_of(2 + round) {
                alerts.push(index);
            }
        }
        close(raw(&alerts), walk(1000, &WINDOWS, &alerts));
    }
}

#[test]
fn labels_are_found_by_the_end_of_the_path() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("windows.json");
    let text = r#"{"a/x.csv": [["1970-01-01 00:00:02", "1970-01-01 00:00:04"]], "a/y.csv": []}"#;
    std::fs::write(&path, text).expect("labels written");
    let labels = Labels::read(&path).expect("labels read");
    let seconds = |seconds: &[i64]| -> Vec<Timestamp> {
        seconds.iter().map(|second| Timestamp::from_microseconds(second * 1_000_000)).collect()
    };
    let stamps = seconds(&[1, 2, 3, 4, 4, 5]);
    let found = labels.windows_of(Path::new("/data/a/x.csv"), &stamps).expect("windows");
    assert_eq!(found, [Window { first: 1, last: 3 }]);
    assert!(labels.windows_of(Path::new("/data/a/y.csv"), &stamps).expect("no windows").is_empty());
    assert!(matches!(
        labels.windows_of(Path::new("/data/b/x.csv"), &stamps),
        Err(LabelError::Missing { .. })
    ));
    let elsewhere = labels.windows_of(Path::new("a/x.csv"), &seconds(&[7, 8]));
    assert!(matches!(elsewhere, Err(LabelError::Window { .. })), "{elsewhere:?}");
}

#[test]
fn bad_labels_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("windows.json");
    assert!(matches!(Labels::read(&path), Err(LabelError::Io { .. })));
    std::fs::write(&path, "[1]").expect("labels written");
    assert!(matches!(Labels::read(&path), Err(LabelError::Json { .. })));
    std::fs::write(&path, r#"{"x.csv": [["soon", "later"]]}"#).expect("labels written");
    assert!(matches!(Labels::read(&path), Err(LabelError::Timestamp { .. })));
}

#[test]
fn the_best_threshold_is_the_best_of_all() {
    // A fixed sequence of coarse scores, so that many are equal; one window hit well, one by chance.
    let mut state = 7_u64;
    let mut scores: Vec<f64> = (0..1000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 20) as f64 / 40.0
        })
        .collect();
    scores[305] = 0.9;
    scores[450] = 0.6;
    let (threshold, best) = best_threshold(&[ScoredSeries { windows: &WINDOWS, scores: &scores }], &STANDARD)
        .expect("there are windows");
    let with = |threshold: f64| {
        let alerts: Vec<usize> = (0..1000).filter(|&index| scores[index] >= threshold).collect();
        score(1000, &WINDOWS, &alerts, &STANDARD).normalised().expect("there are windows")
    };
    close(with(threshold), best);
    let tried = (0..=40).map(|step| with(f64::from(step) / 40.0)).fold(f64::NEG_INFINITY, f64::max);
    close(tried, best);
    assert!(best_threshold(&[ScoredSeries { windows: &[], scores: &scores }], &STANDARD).is_none());
}
