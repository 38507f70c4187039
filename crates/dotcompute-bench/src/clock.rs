//! A clock that reads the CPU's own counter, if it is invariant, and measures the cost of a read.
//!
//! An ask takes about 100 ns and a clock read 5 to 30 ns, so the cost is measured and subtracted from every latency, for all subjects
//! alike.

/// A calibrated clock.
#[derive(Clone)]
pub struct Clock {
    clock: quanta::Clock,
    nanoseconds_per_tick: f64,
    read_cost: u64,
}

impl Clock {
    /// Calibrates the counter against the system's clock (about 0.2 s) and measures the cost of one read.
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

    /// Returns the current time in ticks.
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

    /// Returns the cost of one read in ticks.
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
    fn it_agrees_with_the_system_clock() {
        let clock = Clock::new();
        let outer = Instant::now();
        let started = clock.ticks();
        thread::sleep(Duration::from_millis(20));
        let seconds = clock.seconds_since(started);
        let max = outer.elapsed().as_secs_f64();
        // The elapsed time lies between these bounds; the tolerance of 10 % covers calibration on a busy machine.
        assert!(seconds > 0.020 * 0.9 && seconds < max * 1.1, "{seconds} s of at most {max} s");
    }
}
