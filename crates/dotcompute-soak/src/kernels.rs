//! The ring kernels of a round: handlers and loops on threads, and a handler on the emulated device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dotcompute::prelude::*;
use fastrand::Rng;

use crate::act::{Act, Injected, Word};

/// A handle of any ring kernel.
pub type Handle = KernelHandle<Word, Word>;

/// The ring kernels launched in a round, for those that use others.
#[derive(Default)]
pub struct Directory(Mutex<Vec<Handle>>);

impl Directory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, handle: Handle) {
        self.lock().push(handle);
    }

    /// The ring kernel with this number, counted modulo their number.
    pub fn get(&self, number: usize) -> Option<Handle> {
        let handles = self.lock();
        (!handles.is_empty()).then(|| handles[number % handles.len()].clone())
    }

    pub fn take(&self) -> Vec<Handle> {
        std::mem::take(&mut *self.lock())
    }
}

/// Wait of a brief call.
const BRIEFLY: Duration = Duration::from_micros(500);

/// A ring kernel in handler form that acts on the messages.
pub struct Actor {
    directory: Arc<Directory>,
    held: Vec<ReplyTo<Word>>,
}

impl Actor {
    pub fn new(directory: Arc<Directory>) -> Self {
        Self { directory, held: Vec::new() }
    }
}

impl RingKernel for Actor {
    type Input = Word;
    type Output = Word;

    fn handle(&mut self, message: Word, ctx: &mut Context<Word>) -> HandlerResult {
        let other = || self.directory.get(message.target()).ok_or("no ring kernel");
        match message.act() {
            Act::Reply => ctx.reply(message),
            Act::Panic => std::panic::panic_any(Injected),
            Act::Fail => return Err("injected error".into()),
            Act::Ask => {
                let reply = other()?.ask(message.next())?;
                ctx.reply(reply);
            }
            Act::AskBriefly => {
                let reply = other()?.ask_timeout(message.next(), BRIEFLY);
                ctx.reply(reply.unwrap_or(message));
            }
            Act::Tell => {
                for _ in 0..=message.small() {
                    other()?.tell(message.next()).map_err(to_error)?;
                }
            }
            Act::Send => (0..message.small()).for_each(|_| ctx.send(message.next())),
            Act::Sleep => std::thread::sleep(Duration::from_micros(300 * message.small())),
            Act::HoldReply => {
                if self.held.len() >= 3 {
                    self.held.clear();
                }
                self.held.extend(ctx.take_reply());
            }
            Act::Ignore => {}
            Act::Receive => {
                let _ = other()?.receive_timeout(BRIEFLY);
            }
            Act::SendAndReply => {
                ctx.send(message);
                ctx.reply(message);
            }
        }
        Ok(())
    }

    fn on_deactivate(&mut self, _: &mut Context<Word>) -> HandlerResult {
        self.held.clear();
        Ok(())
    }
}

fn to_error(error: TellError<Word>) -> Box<dyn std::error::Error + Send + Sync> {
    error.reason.into()
}

/// A ring kernel in async loop form. Asks some of the time while it receives.
pub async fn async_loop(mut ctx: LoopContext<Word, Word>, directory: Arc<Directory>) -> HandlerResult {
    while let Some(message) = ctx.receive_async().await {
        match message.act() {
            Act::Panic => std::panic::panic_any(Injected),
            Act::Fail => return Err("injected error".into()),
            Act::Ask | Act::AskBriefly => {
                let Some(other) = directory.get(message.target()) else { continue };
                let reply = other.ask_async(message.next()).await?;
                ctx.reply(reply);
            }
            Act::Receive => {
                let Some(other) = directory.get(message.target()) else { continue };
                let reply_to = ctx.take_reply();
                let asking = std::pin::pin!(other.ask_async(message.next()));
                let receiving = std::pin::pin!(ctx.receive_async());
                match futures::future::select(asking, receiving).await {
                    futures::future::Either::Left((reply, _)) => {
                        if let (Some(reply_to), Ok(reply)) = (reply_to, reply) {
                            reply_to.send(reply);
                        }
                    }
                    futures::future::Either::Right((None, _)) => break,
                    futures::future::Either::Right((Some(_), _)) => {}
                }
            }
            Act::Send | Act::SendAndReply => ctx.send_async(message).await,
            Act::Ignore => {}
            _ => ctx.reply(message),
        }
    }
    Ok(())
}

/// A ring kernel in loop form that blocks its own thread.
pub fn thread_loop(mut ctx: LoopContext<Word, Word>, directory: &Directory) -> HandlerResult {
    while let Some(message) = ctx.receive() {
        match message.act() {
            Act::Panic => std::panic::panic_any(Injected),
            Act::Fail => return Err("injected error".into()),
            Act::Ask => {
                let Some(other) = directory.get(message.target()) else { continue };
                let reply = other.ask(message.next())?;
                ctx.reply(reply);
            }
            Act::Send => ctx.send(message),
            Act::HoldReply => drop(ctx.take_reply()),
            _ => ctx.reply(message),
        }
    }
    Ok(())
}

/// The handler of the emulated device: fails, sends or replies.
const DEVICE_HANDLER: &str = r#"
extern "C" __device__ int32_t handle(Ctx *ctx, Word *state, const Word *message, Word *reply) {
    if (ctx->thread != 0) return 0;
    state->value += 1;
    switch (message->value & 15) {
        case 1: return 7;
        case 6: for (uint64_t i = 0; i < (message->value >> 16 & 7); ++i) ctx->send(message); return 0;
        case 9: return 0;
        default: reply->value = message->value; ctx->reply(reply); return 0;
    }
}
"#;

/// Random options of a ring kernel.
fn options(rng: &mut Rng) -> KernelOptions {
    let mut options = KernelOptions::new().capacity(1 << rng.u32(1..6)).output_capacity(1 << rng.u32(1..6));
    options = options.queued_output_limit(rng.usize(1..100)).backpressure(match rng.u8(..8) {
        0 => Backpressure::Reject,
        1 => Backpressure::DropOldest,
        2 => Backpressure::BlockFor(BRIEFLY),
        _ => Backpressure::Block,
    });
    options.supervision(match rng.u8(..4) {
        0 => Supervision::Never,
        1 => Supervision::restart(3, Duration::from_millis(50)),
        2 => Supervision::Restart { max: 1000, within: Duration::MAX, backoff: Duration::from_micros(200) },
        _ => Supervision::Resume,
    })
}

/// Launches a random ring kernel. `None` if the name is in use or the runtime is being shut down.
pub fn launch(
    runtime: &Runtime,
    name: &str,
    rng: &mut Rng,
    directory: &Arc<Directory>,
    device: bool,
) -> Option<Handle> {
    let (options, directory) = (options(rng), Arc::clone(directory));
    if device {
        let kernel = DeviceKernel::<Word, Word>::cuda_cpp("soak.cu", DEVICE_HANDLER).state(Word { value: 0 });
        let kernel = kernel.shape(Shape::Block { threads: 1 }).queue_capacity(4);
        return runtime.launch_on_device(name, options, kernel).ok();
    }
    match rng.u8(..8) {
        0 => runtime.launch_loop(name, options, move |ctx| async_loop(ctx, Arc::clone(&directory))),
        1 => {
            runtime.launch_loop(name, options.dedicated(), move |ctx| async_loop(ctx, Arc::clone(&directory)))
        }
        2 => runtime.launch_thread_loop(name, options.dedicated(), move |ctx| thread_loop(ctx, &directory)),
        3 => runtime.launch_with(name, options.dedicated(), move || Actor::new(Arc::clone(&directory))),
        _ => runtime.launch_with(name, options, move || Actor::new(Arc::clone(&directory))),
    }
    .ok()
}
