//! `ractor`: asynchronous actors on tokio, after Erlang's `gen_server`.

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measure::ask as asks;
use crate::measure::idle_kernels::{self, Counters, IdleKernelCost};
use crate::measure::task_asks::{self, Quantity};
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};
use crate::subjects::tokio::{current_thread, flatten_join, idle_workers, two_workers};

const NAME: &str = "ractor";

enum ActorMessage {
    Request(Payload, RpcReplyPort<Payload>),
    OneWay(Payload),
    GetTally(RpcReplyPort<Tally>),
}

/// Replies to requests and counts one-way messages.
struct Counter;

impl Actor for Counter {
    type Msg = ActorMessage;
    type State = Tally;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<ActorMessage>, (): ()) -> Result<Tally, ActorProcessingErr> {
        Ok(Tally::default())
    }

    async fn handle(
        &self,
        _: ActorRef<ActorMessage>,
        message: ActorMessage,
        tally: &mut Tally,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // A caller that dropped its port has failed and reports the error itself.
            ActorMessage::Request(request, reply) => drop(reply.send(request.reply())),
            ActorMessage::OneWay(payload) => tally.add(&payload),
            ActorMessage::GetTally(reply) => drop(reply.send(*tally)),
        }
        Ok(())
    }
}

async fn spawn() -> Result<ActorRef<ActorMessage>, BenchError> {
    let (actor, _) =
        Actor::spawn(None, Counter, ()).await.map_err(BenchError::subject(NAME, "starting an actor"))?;
    Ok(actor)
}

async fn call<T: Send + 'static>(
    actor: &ActorRef<ActorMessage>,
    message: impl FnOnce(RpcReplyPort<T>) -> ActorMessage,
) -> Result<T, BenchError> {
    match actor.call(message, None).await.map_err(BenchError::subject(NAME, "asking"))? {
        CallResult::Success(reply) => Ok(reply),
        CallResult::Timeout | CallResult::SenderError => Err(BenchError::Panicked { subject: NAME }),
    }
}

pub fn ask(config: &BenchConfig) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
    current_thread()?.block_on(async {
        let actor = &spawn().await?;
        let sample = asks::drive_async(NAME, config, |request| async move {
            call(actor, |reply| ActorMessage::Request(request, reply)).await
        });
        let sample = sample.await;
        let stopped = actor.stop_and_wait(None, None).await;
        stopped.map_err(BenchError::subject(NAME, "stopping the actor"))?;
        sample
    })
}

/// Measures asks from tasks of the runtime that the actor runs on.
pub fn ask_from_tasks(config: &BenchConfig, tasks: u64, quantity: Quantity) -> Result<Sample, BenchError> {
    let runtime = idle_workers()?;
    let actor = runtime.block_on(spawn())?;
    task_asks::drive(NAME, config, &runtime, tasks, quantity, move |request| {
        let actor = actor.clone();
        async move { call(&actor, |reply| ActorMessage::Request(request, reply)).await }
    })
}

/// Measures a producer task and the actor on two workers. The reply with the tally, requested last, shows that all messages are handled.
pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    let runtime = two_workers(config)?;
    let count = config.tells;
    let actor = runtime.block_on(spawn())?;
    let started = config.clock.ticks();
    let producer = runtime.spawn(async move {
        for sequence in 0..count {
            let message = ActorMessage::OneWay(Payload::new(sequence));
            actor.cast(message).map_err(BenchError::subject(NAME, "telling"))?;
        }
        call(&actor, ActorMessage::GetTally).await
    });
    let tally = flatten_join(NAME, runtime.block_on(producer))?;
    tells::sample(NAME, config, started, tally)
}

/// One of many idle kernels: it counts its start and its message.
struct Idler;

impl Actor for Idler {
    type Msg = ActorMessage;
    type State = Counters;
    type Arguments = Counters;

    async fn pre_start(
        &self,
        _: ActorRef<ActorMessage>,
        counters: Counters,
    ) -> Result<Counters, ActorProcessingErr> {
        counters.start();
        Ok(counters)
    }

    async fn handle(
        &self,
        _: ActorRef<ActorMessage>,
        _: ActorMessage,
        counters: &mut Counters,
    ) -> Result<(), ActorProcessingErr> {
        counters.handle();
        Ok(())
    }
}

pub fn idle_kernels(kernels: u64) -> Result<IdleKernelCost, BenchError> {
    let runtime = idle_workers()?;
    let counters = Counters::default();
    let build = || {
        runtime.block_on(async {
            let mut actors = Vec::new();
            for _ in 0..kernels {
                let spawned = Actor::spawn(None, Idler, counters.clone()).await;
                let (actor, _) = spawned.map_err(BenchError::subject(NAME, "starting an actor"))?;
                actors.push(actor);
            }
            Ok(actors)
        })
    };
    let tell_each = |actors: &Vec<ActorRef<ActorMessage>>| {
        for actor in actors {
            let message = ActorMessage::OneWay(Payload::new(0));
            actor.cast(message).map_err(BenchError::subject(NAME, "telling"))?;
        }
        Ok(())
    };
    idle_kernels::measure(NAME, kernels, &counters, build, tell_each, |actors| {
        actors.iter().for_each(|actor| actor.stop(None));
        runtime.block_on(async {
            for actor in actors {
                actor.wait(None).await.map_err(BenchError::subject(NAME, "stopping an actor"))?;
            }
            Ok(())
        })
    })
}
