//! The host benches of requests and replies.

use crate::bench::{Bench, Subject};
use crate::subjects::{crossbeam, dotcompute, kameo, ractor, rtrb, tokio};

pub fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "ask_spin",
            unit: "ns",
            about: "both sides spin; floor is a bare ping-pong over two rtrb rings between two cores; dotcompute-inline handles on \
                    the caller's thread; tokio, kameo and ractor run on one current-thread runtime, their fastest configuration",
            samples_per_round: 1,
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
            about: "both sides wait as in a program that does not own its cores; crossbeam blocks; \
                    in dotcompute-pool, as for the asynchronous peers, caller and ring kernel share one worker, and so in \
                    dotcompute-inline, whose requests are handled on the caller's thread",
            samples_per_round: 1,
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
