//! The ring kernel that scores one series.

use dotcompute::prelude::*;

use crate::detector::Detector;

/// The next values of a series, in order.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub(super) struct Values(pub Vec<f64>);

/// Their scores.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub(super) struct Scores(pub Vec<f64>);

/// Keeps the state of one series.
pub(super) struct Scorer(Detector);

impl Scorer {
    pub(super) fn new(detector: Detector) -> Self {
        Self(detector)
    }
}

impl RingKernel for Scorer {
    type Input = Values;
    type Output = Scores;

    fn handle(&mut self, Values(mut values): Values, ctx: &mut Context<Scores>) -> HandlerResult {
        // In place: the message that came is the one that goes.
        for value in &mut values {
            *value = self.0.update(*value);
        }
        ctx.reply(Scores(values));
        Ok(())
    }
}
