//! Metrics of this machine, as named series of numbers.

use std::time::Instant;

use sysinfo::{Disks, Networks, ProcessRefreshKind, ProcessesToUpdate, System};

/// A reading of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// `cpu0`, `memory`, `disk read`, ...
    pub name: String,
    /// Unit of the value: `%` or `kB/s`.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
}

/// A process and its CPU usage since the previous sample.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BusyProcess {
    /// The process id.
    pub pid: u32,
    /// The process name.
    pub name: String,
    /// CPU usage in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory in MB (10⁶ bytes).
    pub memory_mb: f64,
}

/// Reads metrics from the operating system. Rates are averages since the previous sample.
pub struct SystemSampler {
    system: System,
    networks: Networks,
    disks: Disks,
    last: Instant,
}

impl SystemSampler {
    /// Takes an initial reading, so that the first sample has a baseline for its rates.
    ///
    /// # Errors
    ///
    /// The operating system's error if it does not provide the metrics.
    pub fn new() -> Result<Self, sysinfo::Error> {
        let mut sampler = Self {
            system: System::new()?,
            networks: Networks::new_with_refreshed_list()?,
            disks: Disks::new_with_refreshed_list()?,
            last: Instant::now(),
        };
        sampler.refresh();
        Ok(sampler)
    }

    fn refresh(&mut self) {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::All,
            true,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
        self.networks.refresh(true);
        self.disks.refresh(true);
    }

    /// Returns all metrics, always in the same order, and the three busiest processes.
    pub fn sample(&mut self) -> (Vec<Metric>, Vec<BusyProcess>) {
        self.refresh();
        let seconds = self.last.elapsed().as_secs_f64().max(1e-3);
        self.last = Instant::now();
        let mut metrics = Vec::new();
        let mut add = |name: String, unit, value| metrics.push(Metric { name, unit, value });
        for (core, cpu) in self.system.cpus().iter().enumerate() {
            add(format!("cpu{core}"), "%", f64::from(cpu.usage()));
        }
        let total = self.system.total_memory().max(1) as f64;
        add(String::from("memory"), "%", 100.0 * self.system.used_memory() as f64 / total);
        let rate = |bytes: u64| bytes as f64 / 1e3 / seconds;
        let (mut read, mut written) = (0, 0);
        for disk in &self.disks {
            let usage = disk.usage();
            read += usage.read_bytes;
            written += usage.written_bytes;
        }
        add(String::from("disk read"), "kB/s", rate(read));
        add(String::from("disk write"), "kB/s", rate(written));
        let (mut received, mut transmitted) = (0, 0);
        for (_, network) in &self.networks {
            received += network.received();
            transmitted += network.transmitted();
        }
        add(String::from("net in"), "kB/s", rate(received));
        add(String::from("net out"), "kB/s", rate(transmitted));
        let busiest = self.busiest(3);
        add(String::from("busiest process"), "%", busiest.first().map_or(0.0, |process| process.cpu_percent));
        (metrics, busiest)
    }

    fn busiest(&self, count: usize) -> Vec<BusyProcess> {
        let mut all: Vec<BusyProcess> = self
            .system
            .processes()
            .values()
            // Linux lists threads beside their processes.
            .filter(|process| process.thread_kind().is_none())
            .map(|process| BusyProcess {
                pid: process.pid().as_u32(),
                name: process.name().to_string_lossy().into_owned(),
                cpu_percent: f64::from(process.cpu_usage()),
                memory_mb: process.memory() as f64 / 1e6,
            })
            .collect();
        all.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent).then(a.pid.cmp(&b.pid)));
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_stable_order_and_are_within_bounds() {
        let mut sampler = SystemSampler::new().unwrap();
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        let (first, _) = sampler.sample();
        let (second, busiest) = sampler.sample();
        let names = |metrics: &[Metric]| metrics.iter().map(|metric| metric.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&first), names(&second));
        for expected in ["cpu0", "memory", "disk read", "net in", "busiest process"] {
            assert!(names(&first).iter().any(|name| name == expected), "{expected} is missing");
        }
        for metric in &first {
            assert!(metric.value.is_finite() && metric.value >= 0.0, "{metric:?}");
        }
        let memory = first.iter().find(|metric| metric.name == "memory").unwrap();
        assert!(memory.value > 0.0 && memory.value <= 100.0, "{memory:?}");
        assert!(!busiest.is_empty(), "this very process at least");
    }
}
