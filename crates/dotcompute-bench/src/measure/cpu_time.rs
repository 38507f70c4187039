//! The processor time of this process, all threads together.

use rustix::time::{ClockId, clock_gettime};

/// Returns the processor time that the process has used, in nanoseconds.
pub fn process_nanoseconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_work_on_any_thread() {
        let before = process_nanoseconds();
        let worker = std::thread::spawn(|| {
            (0..3_000_000u64).fold(0, |sum, number| std::hint::black_box(sum ^ number))
        });
        worker.join().unwrap();
        assert!(process_nanoseconds() > before);
    }
}
