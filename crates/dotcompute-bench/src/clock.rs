//! The clock: the processor's own counter where it has a steady one, with the cost of reading it known.
//!
//! An ask takes about 100 ns and a reading of the clock 5 to 30 ns, so the cost is measured and taken off every
//! latency, for all subjects alike.

/// A calibrated clock.
#[derive(Clone)]
pub struct Clock {
    clock: quanta::Clock,
    nanoseconds_per_tick: f64,
    read_cost: u64,
}

impl Clock {
    /// Calibrates the counter against the system's clock (some 0.2 s) and measures what one reading costs.
    pub fn new() -> Self {
        const SCALE: u64 = 1 << 40;
        let clock = quanta::Clock::new();
        let nanoseconds_per_tick = clock.delta_as_nanos(0, SCALE) as f64 / SCALE as f64;
        let mut distances: Vec<u64> = Vec::with_capacity(10_000);
        let mut last = clock.raw();
        for _ in 0..10_000 {
            let now = clock.raw();
            distances.push(now - last);
            last = now;
        }
        distances.sort_unstable();
        Clock { clock, nanoseconds_per_tick, read_cost: distances[distances.len() / 2] }
    }

    /// The time now, in ticks.
    #[inline]
    pub fn ticks(&self) -> u64 {
        self.clock.raw()
    }

    pub fn nanoseconds(&self, ticks: u64) -> f64 {
        ticks as f64 * self.nanoseconds_per_tick
    }

    pub fn seconds_since(&self, started: u64) -> f64 {
        self.nanoseconds(self.ticks() - started) / 1e9
    }

    /// What one reading costs, in ticks.
    pub fn read_cost(&self) -> u64 {
        self.read_cost
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_agrees_with_the_systems_clock() {
        let clock = Clock::new();
        let outer = Instant::now();
        let started = clock.ticks();
        thread::sleep(Duration::from_millis(20));
        let seconds = clock.seconds_since(started);
        let max = outer.elapsed().as_secs_f64();
        // However long the sleep takes, it lies between these; one tenth is for the calibration on a busy machine.
        assert!(seconds > 0.020 * 0.9 && seconds < max * 1.1, "{seconds} s of at most {max} s");
    }
}
