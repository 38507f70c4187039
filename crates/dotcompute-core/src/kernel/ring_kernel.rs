//! Ring kernel.

use super::context::Context;
use crate::error::HandlerResult;
use crate::message::Message;

/// A ring kernel in handler form: state, and what to do with each message.
///
/// Messages are handled one after another, so the state needs no lock. State and messages are separate, so that after a
/// panic the state can be made anew while queued messages stay ([`Supervision`](crate::supervision::Supervision)).
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
    /// What it takes.
    type Input: Message;
    /// What it gives.
    type Output: Message;

    /// Handles one message.
    ///
    /// # Errors
    ///
    /// Any error makes the message a dead letter with the error as its cause; an asker gets it at once, and the ring kernel's
    /// supervision decides how to go on. A panic is treated the same.
    fn handle(&mut self, message: Self::Input, ctx: &mut Context<Self::Output>) -> HandlerResult;

    /// Called before the first message after each activation, reactivation and restart.
    ///
    /// # Errors
    ///
    /// As for a message, but that no message is lost: supervision decides how to go on.
    fn on_activate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }

    /// Called when the ring kernel is paused.
    ///
    /// # Errors
    ///
    /// As for [`on_activate`](Self::on_activate).
    fn on_deactivate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }

    /// Called after the last message of a ring kernel that is terminated. What it sends still goes out.
    ///
    /// Not called on one that failed or was aborted.
    ///
    /// # Errors
    ///
    /// The ring kernel ends as `Failed`.
    fn on_terminate(&mut self, _ctx: &mut Context<Self::Output>) -> HandlerResult {
        Ok(())
    }
}
