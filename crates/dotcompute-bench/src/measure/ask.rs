//! Measures round trips: the time from a request until the caller has the reply.

use crate::clock::Clock;
use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::{Sample, latency_histogram};
use crate::payload::Payload;

/// Measures sequential asks on the pinned driver thread: each request follows the previous reply. The first pass reads the clock after
/// every reply, the second reads no clock in between.
///
/// # Errors
///
/// Returns the error of `ask`, or [`BenchError::WrongReply`].
pub fn drive(
    subject: &'static str,
    config: &BenchConfig,
    mut ask: impl FnMut(Payload) -> Result<Payload, BenchError>,
) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
    let mut sampler = AskSampler::new(subject, config);
    while let Some(request) = sampler.warm_up() {
        sampler.check(ask(request)?)?;
    }
    sampler.start_pass();
    while let Some(request) = sampler.timed() {
        sampler.check(ask(request)?)?;
        sampler.record_lap();
    }
    sampler.start_pass();
    while let Some(request) = sampler.untimed() {
        sampler.check(ask(request)?)?;
    }
    Ok(sampler.finish())
}

/// Like [`drive`], for asynchronous subjects. The caller has pinned the thread.
///
/// # Errors
///
/// As [`drive`].
pub async fn drive_async<A: Future<Output = Result<Payload, BenchError>>>(
    subject: &'static str,
    config: &BenchConfig,
    mut ask: impl FnMut(Payload) -> A,
) -> Result<Sample, BenchError> {
    let mut sampler = AskSampler::new(subject, config);
    while let Some(request) = sampler.warm_up() {
        sampler.check(ask(request).await?)?;
    }
    sampler.start_pass();
    while let Some(request) = sampler.timed() {
        sampler.check(ask(request).await?)?;
        sampler.record_lap();
    }
    sampler.start_pass();
    while let Some(request) = sampler.untimed() {
        sampler.check(ask(request).await?)?;
    }
    Ok(sampler.finish())
}

/// The requests of one sample and the latencies of their replies, shared by [`drive`] and [`drive_async`].
struct AskSampler<'a> {
    subject: &'static str,
    clock: &'a Clock,
    /// The number of requests in each pass.
    count: u64,
    sequence: u64,
    started: u64,
    last: u64,
    /// Raw ticks, because recording into a histogram costs up to a fifth of the fastest ask.
    laps: Vec<u64>,
}

impl<'a> AskSampler<'a> {
    fn new(subject: &'static str, config: &'a BenchConfig) -> Self {
        // Writes the buffer once, so that no page fault occurs during the measurement.
        let mut laps = vec![u64::MAX; config.asks as usize];
        laps.clear();
        AskSampler {
            subject,
            clock: &config.clock,
            count: config.asks,
            sequence: 0,
            started: 0,
            last: 0,
            laps,
        }
    }

    fn warm_up(&self) -> Option<Payload> {
        self.request_before(self.count / 10)
    }

    fn timed(&self) -> Option<Payload> {
        self.request_before(self.count / 10 + self.count)
    }

    fn untimed(&self) -> Option<Payload> {
        self.request_before(self.count / 10 + 2 * self.count)
    }

    #[inline]
    fn request_before(&self, end: u64) -> Option<Payload> {
        (self.sequence < end).then(|| Payload::new(self.sequence))
    }

    #[inline]
    fn check(&mut self, reply: Payload) -> Result<(), BenchError> {
        if !reply.is_reply_to(self.sequence) {
            return Err(BenchError::WrongReply { subject: self.subject, sequence: self.sequence });
        }
        self.sequence += 1;
        Ok(())
    }

    fn start_pass(&mut self) {
        self.started = self.clock.ticks();
        self.last = self.started;
    }

    #[inline]
    fn record_lap(&mut self) {
        let now = self.clock.ticks();
        self.laps.push(now - self.last);
        self.last = now;
    }

    fn finish(self) -> Sample {
        let mean = self.clock.seconds_since(self.started) * 1e9 / self.count as f64;
        let mut latencies = latency_histogram();
        for lap in &self.laps {
            latencies.saturating_record(lap.saturating_sub(self.clock.read_cost()));
        }
        let value = self.clock.nanoseconds(latencies.value_at_quantile(0.5));
        Sample { value, latencies: Some(latencies), mean: Some(mean) }
    }
}
