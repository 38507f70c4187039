//! Handler form of a ring kernel.

use super::context::Context;
use crate::error::HandlerResult;
use crate::message::Message;

/// A ring kernel in handler form: its state, and a handler for each message.
///
/// Messages are handled one at a time, so the state needs no lock. The state is separate from the queued messages: after a panic it can
/// be rebuilt without losing them ([`Supervision`](crate::supervision::Supervision)).
///
/// ```
/// use dotcompute_core::error::HandlerResult;
/// use dotcompute_core::kernel::{Context, RingKernel};
///
/// #[derive(Default)]
/// struct RunningMean { sum: f64, count: u32 }
///
/// impl RingKernel for RunningMean {
///     type Input = f64;
///     type Output = f64;
///
///     fn handle(&mut self, value: f64, ctx: &mut Context<f64>) -> HandlerResult {
///         if !value.is_finite() {
///             return Err(format!("{value} is not a finite number").into());
///         }
///         self.sum += value;
///         self.count += 1;
///         ctx.reply(self.sum / f64::from(self.count));
///         Ok(())
///     }
/// }
/// ```
pub trait RingKernel: Send + 'static {
    /// Messages that it handles.
    type Input: Message;
    /// Its replies and outputs.
    type Output: Message;

    /// Handles one message.
    ///
    /// # Errors
    ///
    /// An error turns the message into a dead letter with the error as its cause, and completes the caller's `ask` with it at once. The
    /// supervision policy decides what happens next. A panic has the same effect.
    fn handle(&mut self, message: Self::Input, ctx: &mut Context<Self::Output>) -> HandlerResult;

    /// Called before the first message after each activation, reactivation and restart.
    ///
    /// # Errors
    ///
    /// As for `handle`, except that no message is lost.
    fn on_activate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }

    /// Called when the ring kernel is deactivated.
    ///
    /// # Errors
    ///
    /// As for [`on_activate`](Self::on_activate).
    fn on_deactivate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }

    /// Called after the last message of a ring kernel that is terminated. Its outputs are still delivered.
    ///
    /// Not called if the ring kernel failed or was aborted.
    ///
    /// # Errors
    ///
    /// The ring kernel ends as `Failed`.
    fn on_terminate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }
}
