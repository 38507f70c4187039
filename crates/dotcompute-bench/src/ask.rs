//! Question and answer: the time until the answer is in the asker's hands.

use crate::bench::{Bench, Subject};
use crate::clock::Clock;
use crate::error::BenchError;
use crate::figure::{Sample, latency_histogram};
use crate::payload::Payload;
use crate::setting::Setting;
use crate::subjects::{crossbeam, dotcompute, kameo, ractor, rtrb, tokio};

pub fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "ask_spin",
            unit: "ns",
            about: "both sides spin; floor is a bare ping-pong over two rtrb rings between two cores; dotcompute-inline handles on \
                    the asker's thread; tokio, kameo and ractor on one current-thread runtime, which is their fastest",
            turns: 1,
            subjects: vec![
                Subject::new("floor", rtrb::ping_pong),
                Subject::new("dotcompute", dotcompute::ask_spinning),
                Subject::new("dotcompute-inline", dotcompute::ask_inline),
                Subject::new("crossbeam", crossbeam::ask_spinning),
                Subject::new("tokio", tokio::ask),
                Subject::new("kameo", kameo::ask),
                Subject::new("ractor", ractor::ask),
            ],
        },
        Bench {
            name: "ask_adaptive",
            unit: "ns",
            about: "both sides wait as they would in a program that does not own its cores; crossbeam blocks; \
                    dotcompute-pool has the asker beside the ring kernel on one worker, as the asynchronous peers, and so has \
                    dotcompute-inline, whose asks are handled in the asker's place",
            turns: 1,
            subjects: vec![
                Subject::new("floor", rtrb::ping_pong),
                Subject::new("dotcompute", dotcompute::ask_adaptive),
                Subject::new("dotcompute-pool", dotcompute::ask_on_the_pool),
                Subject::new("dotcompute-inline", dotcompute::ask_on_the_pool_inline),
                Subject::new("crossbeam", crossbeam::ask_blocking),
                Subject::new("tokio", tokio::ask),
                Subject::new("kameo", kameo::ask),
                Subject::new("ractor", ractor::ask),
            ],
        },
    ]
}

/// Asks in turn, each question after the answer to the one before, on the pinned driver: once with the clock read
/// after every answer, once with no clock.
///
/// # Errors
///
/// What `ask` reports, or that an answer is not the answer.
pub fn drive(
    subject: &'static str,
    setting: &Setting,
    mut ask: impl FnMut(Payload) -> Result<Payload, BenchError>,
) -> Result<Sample, BenchError> {
    setting.cores.pin_driver();
    let mut questions = Questions::new(subject, setting);
    while let Some(question) = questions.warm_up() {
        questions.check(ask(question)?)?;
    }
    questions.begin();
    while let Some(question) = questions.timed() {
        questions.check(ask(question)?)?;
        questions.lap();
    }
    questions.begin();
    while let Some(question) = questions.untimed() {
        questions.check(ask(question)?)?;
    }
    Ok(questions.end())
}

/// As [`drive`], for those who await. The caller has pinned the thread.
///
/// # Errors
///
/// As [`drive`].
pub async fn drive_async<A: Future<Output = Result<Payload, BenchError>>>(
    subject: &'static str,
    setting: &Setting,
    mut ask: impl FnMut(Payload) -> A,
) -> Result<Sample, BenchError> {
    let mut questions = Questions::new(subject, setting);
    while let Some(question) = questions.warm_up() {
        questions.check(ask(question).await?)?;
    }
    questions.begin();
    while let Some(question) = questions.timed() {
        questions.check(ask(question).await?)?;
        questions.lap();
    }
    questions.begin();
    while let Some(question) = questions.untimed() {
        questions.check(ask(question).await?)?;
    }
    Ok(questions.end())
}

/// The questions of one sample and the times of their answers: what [`drive`] and [`drive_async`] share.
struct Questions<'a> {
    subject: &'static str,
    clock: &'a Clock,
    /// Of each pass.
    count: u64,
    sequence: u64,
    begun: u64,
    last: u64,
    /// Kept raw while asking: a histogram costs as much as a fifth of the fastest ask.
    laps: Vec<u64>,
}

impl<'a> Questions<'a> {
    fn new(subject: &'static str, setting: &'a Setting) -> Self {
        // Written once, so that no page is touched for the first time while asking.
        let mut laps = vec![u64::MAX; setting.asks as usize];
        laps.clear();
        Questions {
            subject,
            clock: &setting.clock,
            count: setting.asks,
            sequence: 0,
            begun: 0,
            last: 0,
            laps,
        }
    }

    fn warm_up(&self) -> Option<Payload> {
        self.before(self.count / 10)
    }

    fn timed(&self) -> Option<Payload> {
        self.before(self.count / 10 + self.count)
    }

    fn untimed(&self) -> Option<Payload> {
        self.before(self.count / 10 + 2 * self.count)
    }

    #[inline]
    fn before(&self, end: u64) -> Option<Payload> {
        (self.sequence < end).then(|| Payload::new(self.sequence))
    }

    #[inline]
    fn check(&mut self, answer: Payload) -> Result<(), BenchError> {
        if !answer.is_answer_to(self.sequence) {
            return Err(BenchError::WrongAnswer { subject: self.subject, sequence: self.sequence });
        }
        self.sequence += 1;
        Ok(())
    }

    fn begin(&mut self) {
        self.begun = self.clock.ticks();
        self.last = self.begun;
    }

    #[inline]
    fn lap(&mut self) {
        let now = self.clock.ticks();
        self.laps.push(now - self.last);
        self.last = now;
    }

    fn end(self) -> Sample {
        let mean = self.clock.seconds_since(self.begun) * 1e9 / self.count as f64;
        let mut latencies = latency_histogram();
        for lap in &self.laps {
            latencies.saturating_record(lap.saturating_sub(self.clock.cost()));
        }
        let value = self.clock.nanoseconds(latencies.value_at_quantile(0.5));
        Sample { value, latencies: Some(latencies), mean: Some(mean) }
    }
}
