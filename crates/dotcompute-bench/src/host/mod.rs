//! `dotcompute-bench host`: the lists of benches on this machine's CPU.

mod ask;
pub mod idle_kernels;
mod overload;
mod queue;
mod task_asks;
mod tell;

use crate::bench::Bench;

/// Returns every bench of `host`, in the order in which they are shown.
pub fn benches() -> Vec<Bench> {
    let mut benches = queue::benches();
    benches.extend(ask::benches());
    benches.extend(task_asks::benches());
    benches.push(tell::bench());
    benches.push(overload::bench());
    benches.extend(idle_kernels::benches());
    benches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::selected;

    #[test]
    fn benches_are_selected_by_name_and_an_unknown_name_lists_the_known() {
        let one = selected(benches(), &["tell".to_owned()]).unwrap();
        assert_eq!(one.iter().map(|bench| bench.name).collect::<Vec<_>>(), ["tell"]);
        match selected(benches(), &["tel".to_owned()]) {
            Err(error) => assert!(error.to_string().contains("queue_same_thread"), "{error}"),
            Ok(_) => panic!("an unknown bench was accepted"),
        }
    }

    #[test]
    fn no_bench_measures_a_subject_twice() {
        for bench in benches() {
            let mut names: Vec<&str> = bench.subjects.iter().map(|subject| subject.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), bench.subjects.len(), "{}", bench.name);
        }
    }
}
