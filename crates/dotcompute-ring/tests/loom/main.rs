//! Loom models: `loom` explores every interleaving of their steps.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p dotcompute-ring --test loom --release
//! ```
#![cfg(loom)]

mod rings;
mod waiting;
