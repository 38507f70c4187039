//! `kameo`: asynchronous actors on tokio.

use kameo::actor::{Actor, ActorRef, Spawn};
use kameo::error::Infallible;
use kameo::mailbox;
use kameo::message::{Context, Message};

use crate::config::{BenchConfig, CAPACITY};
use crate::error::BenchError;
use crate::measure::ask as asks;
use crate::measure::idle_kernels::{self, Counters, IdleKernelCost};
use crate::measure::task_asks::{self, Quantity};
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};
use crate::subjects::tokio::{current_thread, flatten_join, idle_workers, two_workers};

const NAME: &str = "kameo";

struct Request(Payload);
struct OneWay(Payload);
struct GetTally;

/// Replies to requests and counts one-way messages.
#[derive(Default)]
struct Counter(Tally);

impl Actor for Counter {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(counter: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(counter)
    }
}

impl Message<Request> for Counter {
    type Reply = Result<Payload, Infallible>;

    async fn handle(&mut self, request: Request, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Ok(request.0.reply())
    }
}

impl Message<OneWay> for Counter {
    type Reply = ();

    async fn handle(&mut self, message: OneWay, _: &mut Context<Self, Self::Reply>) {
        self.0.add(&message.0);
    }
}

impl Message<GetTally> for Counter {
    type Reply = Result<Tally, Infallible>;

    async fn handle(&mut self, _: GetTally, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Ok(self.0)
    }
}

fn spawn() -> ActorRef<Counter> {
    Counter::spawn_with_mailbox(Counter::default(), mailbox::bounded(CAPACITY))
}

pub fn ask(config: &BenchConfig) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
    current_thread()?.block_on(async {
        let actor = &spawn();
        let sample = asks::drive_async(NAME, config, |request| async move {
            actor.ask(Request(request)).send().await.map_err(BenchError::subject(NAME, "asking"))
        });
        let sample = sample.await;
        actor.kill();
        actor.wait_for_shutdown().await;
        sample
    })
}

/// Measures asks from tasks of the runtime that the actor runs on, with the default mailbox unless a capacity is given.
pub fn ask_from_tasks(
    config: &BenchConfig,
    tasks: u64,
    capacity: Option<usize>,
    quantity: Quantity,
) -> Result<Sample, BenchError> {
    let runtime = idle_workers()?;
    let actor = runtime.block_on(async {
        match capacity {
            Some(capacity) => Counter::spawn_with_mailbox(Counter::default(), mailbox::bounded(capacity)),
            None => Counter::spawn(Counter::default()),
        }
    });
    task_asks::drive(NAME, config, &runtime, tasks, quantity, move |request| {
        let actor = actor.clone();
        async move { actor.ask(Request(request)).send().await.map_err(BenchError::subject(NAME, "asking")) }
    })
}

/// Measures a producer task and the actor on two workers. The reply with the tally, requested last, shows that all messages are handled.
pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    let runtime = two_workers(config)?;
    let count = config.tells;
    let actor = runtime.block_on(async { spawn() });
    let started = config.clock.ticks();
    let producer = runtime.spawn(async move {
        for sequence in 0..count {
            let message = OneWay(Payload::new(sequence));
            actor.tell(message).send().await.map_err(BenchError::subject(NAME, "telling"))?;
        }
        actor.ask(GetTally).send().await.map_err(BenchError::subject(NAME, "asking for the tally"))
    });
    let tally = flatten_join(NAME, runtime.block_on(producer))?;
    tells::sample(NAME, config, started, tally)
}

/// One of many idle kernels: it counts its start and its message.
struct Idler(Counters);

impl Actor for Idler {
    type Args = Counters;
    type Error = Infallible;

    async fn on_start(counters: Counters, _: ActorRef<Self>) -> Result<Self, Infallible> {
        counters.start();
        Ok(Idler(counters))
    }
}

impl Message<OneWay> for Idler {
    type Reply = ();

    async fn handle(&mut self, _: OneWay, _: &mut Context<Self, Self::Reply>) {
        self.0.handle();
    }
}

pub fn idle_kernels(kernels: u64) -> Result<IdleKernelCost, BenchError> {
    let runtime = idle_workers()?;
    let _inside = runtime.enter();
    let counters = Counters::default();
    let build = || {
        let spawn = |_| Idler::spawn(counters.clone());
        Ok((0..kernels).map(spawn).collect::<Vec<_>>())
    };
    let tell_each = |actors: &Vec<ActorRef<Idler>>| {
        for actor in actors {
            let message = OneWay(Payload::new(0));
            actor.tell(message).try_send().map_err(BenchError::subject(NAME, "telling"))?;
        }
        Ok(())
    };
    idle_kernels::measure(NAME, kernels, &counters, build, tell_each, |actors| {
        actors.iter().for_each(ActorRef::kill);
        runtime.block_on(async {
            for actor in actors {
                actor.wait_for_shutdown().await;
            }
        });
        Ok(())
    })
}
