//! Question and answer: the time until the answer is in the asker's hands.

use crate::clock::Clock;
use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::{Sample, latency_histogram};
use crate::payload::Payload;

/// Asks in turn, each question after the answer to the one before, on the pinned driver: once with the clock read
/// after every answer, once with no clock.
///
/// # Errors
///
/// What `ask` reports, or that an answer is not the answer.
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

/// As [`drive`], for those who await. The caller has pinned the thread.
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

/// The questions of one sample and the times of their answers: what [`drive`] and [`drive_async`] share.
struct AskSampler<'a> {
    subject: &'static str,
    clock: &'a Clock,
    /// Of each pass.
    count: u64,
    sequence: u64,
    started: u64,
    last: u64,
    /// Kept raw while asking: a histogram costs as much as a fifth of the fastest ask.
    laps: Vec<u64>,
}

impl<'a> AskSampler<'a> {
    fn new(subject: &'static str, config: &'a BenchConfig) -> Self {
        // Written once, so that no page is touched for the first time while asking.
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
