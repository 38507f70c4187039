//! Tests of the detector.

use super::*;

/// Reproducible noise between -1 and 1.
fn noise(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    })
}

fn alerts(values: impl IntoIterator<Item = f64>) -> Vec<usize> {
    let mut detector = Detector::new(THRESHOLD);
    let scores: Vec<f64> = values.into_iter().map(|value| detector.update(value)).collect();
    assert!(scores.iter().all(|score| (0.0..1.0).contains(score)), "scores lie from 0 to 1");
    (0..scores.len()).filter(|&index| scores[index] >= THRESHOLD).collect()
}

#[test]
fn a_constant_series_and_a_cycle_are_never_unusual() {
    assert_eq!(alerts(std::iter::repeat_n(42.0, 20_000)), [0; 0]);
    let cycle = (0..20_000).map(|index| (f64::from(index) * std::f64::consts::TAU / 100.0).sin());
    assert_eq!(alerts(cycle), [0; 0]);
}

#[test]
fn finds_a_spike_a_shift_and_a_change_of_spread() {
    let quiet = || noise(1).take(3000);
    let spike = quiet().chain([9.0]).chain(noise(2).take(500));
    assert!(alerts(spike).contains(&3000));
    let shift = alerts(quiet().chain(noise(2).take(500).map(|value| value + 4.0)));
    assert!(shift.contains(&3000), "{shift:?}");
    let wider = alerts(quiet().chain(noise(2).take(500).map(|value| value * 4.0)));
    assert!(wider.iter().any(|index| (3000..3010).contains(index)), "{wider:?}");
    let flat = alerts(quiet().chain(std::iter::repeat_n(0.1, 500)));
    assert!(flat.iter().any(|index| (3000..3200).contains(index)), "{flat:?}");
}

#[test]
fn noise_alone_breaks_few_records() {
    let total: usize = (0..20).map(|seed| alerts(noise(seed).take(5000)).len()).sum();
    // Four independent statistics would break 4 ln(5000 / 150) = 14 records in each series.
    assert!(total <= 20 * 14, "{total} alerts in 20 series of 5000");
}

#[test]
fn a_slow_rise_breaks_records_too() {
    let rise = (0..1000).map(|step| f64::from(step) / 100.0);
    let found = alerts(noise(1).take(3000).chain(noise(2).zip(rise).map(|(noise, rise)| noise + rise)));
    assert!(found.iter().any(|index| (3000..3300).contains(index)), "{found:?}");
}

#[test]
fn a_young_live_series_raises_few_alerts() {
    let alerts = |seed| {
        let mut detector = Detector::live();
        noise(seed).take(400).filter(|&value| detector.update(value) >= LIVE_THRESHOLD).count()
    };
    let total: usize = (0..100).map(alerts).sum();
    assert!(total <= 20, "{total} alerts in 100 series of 400");
}

#[test]
fn one_incident_is_reported_once() {
    let incident = (0..100).map(|index| 10.0 + f64::from(index));
    let found = alerts(noise(1).take(3000).chain(incident));
    assert_eq!(found.iter().filter(|&&index| index >= 3000).count(), 1, "{found:?}");
}

/// Noise with a spike, a shift and a flat stretch, in multiples of 1 / 1024 from -12 to 12.
fn eventful(seed: u64) -> Vec<f64> {
    let quiet = noise(seed).take(2500).chain([11.0]).chain(noise(seed + 100).take(700));
    let shifted = noise(seed + 200).take(700).map(|value| value + 4.0);
    let flat = std::iter::repeat_n(0.5, 60);
    let series = quiet.chain(shifted).chain(flat).chain(noise(seed + 300).take(1000));
    series.map(|value| (value * 1024.0).round() / 1024.0).collect()
}

/// Scores of a detector that is never quiet: an alert that just breaks a threshold would halve the scores after it.
fn scores(settings: Settings, values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut detector = Detector::with(settings, f64::INFINITY);
    values.into_iter().map(|value| detector.update(value)).collect()
}

fn greatest_difference(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

#[test]
fn scores_do_not_depend_on_units() {
    for (seed, settings) in (0..10).flat_map(|seed| [(seed, RECORDED), (seed, LIVE)]) {
        let expected = scores(settings, eventful(seed));
        let scaled = |factor: f64| scores(settings, eventful(seed).into_iter().map(|value| value * factor));
        // A power of two changes exponents only.
        for power in [-900, -40, 10, 900] {
            assert_eq!(scaled(2_f64.powi(power)), expected, "times 2^{power}");
        }
        for factor in [-1e-12, 1e-3, 1e9, 1e100] {
            let difference = greatest_difference(&scaled(factor), &expected);
            assert!(difference < 1e-10, "times {factor}: the scores differ by {difference}");
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_zero_point() {
    for (seed, settings) in (0..10).flat_map(|seed| [(seed, RECORDED), (seed, LIVE)]) {
        let expected = scores(settings, eventful(seed));
        for constant in [-1e11, -1e9, 1.0, 1e6, 1e9, 1e11] {
            let shifted = scores(settings, eventful(seed).into_iter().map(|value| value + constant));
            // A deviation is off by a few roundings of the constant, and so is the rounding that both sides of each ratio
            // get. Ratios are at most 50, and the least usual deviation of this series is about 1 / 4.
            let tolerance = 50.0 * 4.0 * ROUNDING * (constant.abs() + 12.0);
            let difference = greatest_difference(&shifted, &expected);
            assert!(difference <= tolerance, "{constant} more: the scores differ by {difference}");
        }
    }
}

#[test]
fn alerts_do_not_depend_on_the_zero_point() {
    for seed in 0..10 {
        let expected = alerts(eventful(seed));
        assert!(expected.contains(&2500), "{expected:?}");
        let shifted = |constant| alerts(eventful(seed).into_iter().map(|value| value + constant));
        assert_eq!(shifted(1e9), expected);
        assert_eq!(shifted(-1e9), expected);
        // The last digits of the values are lost here, which moves scores that are close to the threshold.
        assert!(shifted(1e11).contains(&2500));
    }
}

#[test]
fn jitter_in_the_last_place_is_never_unusual() {
    for start in [1.0, -0.1, 1e300] {
        let flat = (0..5000_u64).map(|index| f64::from_bits(f64::to_bits(start) + index * index % 3 % 2));
        let jump = std::iter::repeat_n(f64::from_bits(f64::to_bits(start) + 2), 100);
        assert_eq!(alerts(flat.chain(jump)), [0; 0], "{start}");
    }
}

#[test]
fn scores_do_not_depend_on_later_values() {
    let mut whole = Detector::new(THRESHOLD);
    let scores: Vec<f64> = noise(4).take(1000).map(|value| whole.update(value)).collect();
    let mut part = Detector::new(THRESHOLD);
    let first: Vec<f64> = noise(4).take(400).map(|value| part.update(value)).collect();
    assert_eq!(scores[..400], first);
}

#[test]
fn scores_any_number() {
    let mut detector = Detector::live();
    let hostile = [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 5e-324, -0.0, 1e300, -1e300];
    for _ in 0..1000 {
        for value in hostile {
            let score = detector.update(value);
            assert!((0.0..=1.0).contains(&score), "{value} scores {score}");
        }
    }
    let before = detector.clone();
    assert_eq!(detector.update(f64::NAN), 0.0);
    assert_eq!(detector, before);
}
