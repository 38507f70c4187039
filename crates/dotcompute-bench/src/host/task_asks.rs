//! The host benches of asks from tokio tasks: what a program with an async runtime pays at default options.

use crate::bench::{Bench, Subject};
use crate::measure::task_asks::Quantity;
use crate::subjects::{dotcompute, kameo, ractor};

const MAILBOX: &str = "processor time of the whole process for one ask into one ring kernel or actor on two workers, with default options but \
                       for the mailbox; ractor's is unbounded";

/// A bench with this many tasks and this mailbox capacity.
fn bench<const TASKS: u64, const CAPACITY: usize>(name: &'static str) -> Bench {
    Bench {
        name,
        unit: "ns",
        about: MAILBOX,
        samples_per_round: 1,
        subjects: vec![
            Subject::new("dotcompute", |config| {
                dotcompute::ask_from_tasks(config, TASKS, Some(CAPACITY), Quantity::Cpu)
            }),
            Subject::new("kameo", |config| {
                kameo::ask_from_tasks(config, TASKS, Some(CAPACITY), Quantity::Cpu)
            }),
            Subject::new("ractor", |config| ractor::ask_from_tasks(config, TASKS, Quantity::Cpu)),
        ],
    }
}

pub fn benches() -> Vec<Bench> {
    let about =
        "one tokio task of two workers asks one ring kernel or actor with default options, sequentially";
    let one = |name, subjects| Bench { name, unit: "ns", about, samples_per_round: 1, subjects };
    vec![
        one(
            "ask_from_a_task_cpu",
            vec![
                Subject::new("dotcompute", |config| {
                    dotcompute::ask_from_tasks(config, 1, None, Quantity::Cpu)
                }),
                Subject::new("kameo", |config| kameo::ask_from_tasks(config, 1, None, Quantity::Cpu)),
                Subject::new("ractor", |config| ractor::ask_from_tasks(config, 1, Quantity::Cpu)),
            ],
        ),
        one(
            "ask_from_a_task_wall",
            vec![
                Subject::new("dotcompute", |config| {
                    dotcompute::ask_from_tasks(config, 1, None, Quantity::Wall)
                }),
                Subject::new("kameo", |config| kameo::ask_from_tasks(config, 1, None, Quantity::Wall)),
                Subject::new("ractor", |config| ractor::ask_from_tasks(config, 1, Quantity::Wall)),
            ],
        ),
        bench::<16, 64>("ask_from_16_tasks_mailbox_64"),
        bench::<16, 1024>("ask_from_16_tasks_mailbox_1024"),
        bench::<500, 64>("ask_from_500_tasks_mailbox_64"),
        bench::<500, 1024>("ask_from_500_tasks_mailbox_1024"),
        bench::<2_000, 64>("ask_from_2000_tasks_mailbox_64"),
        bench::<2_000, 1024>("ask_from_2000_tasks_mailbox_1024"),
        bench::<10_000, 64>("ask_from_10000_tasks_mailbox_64"),
        bench::<10_000, 1024>("ask_from_10000_tasks_mailbox_1024"),
    ]
}
