//! The ring kernel that scores one series.

use dotcompute::prelude::*;

use crate::detector::Detector;

/// The next values of the series, in order.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub(super) struct Values(pub Vec<f64>);

/// The scores of the values, in the same order.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub(super) struct Scores(pub Vec<f64>);

/// Scores one series; holds its detector.
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
        // Write the scores into the received message, which becomes the reply.
        for value in &mut values {
            *value = self.0.update(*value);
        }
        ctx.reply(Scores(values));
        Ok(())
    }
}
