//! Checks that need Linux.

use std::fs;
use std::io;
use std::mem::MaybeUninit;

use super::check::{Check, size};

/// Mappings for tens of thousands of threads; the default limit of Linux.
const MIN_MAPS: u64 = 65_530;
/// Bytes of shared memory, which holds the rings between processes.
const MIN_SHARED: u64 = 64_000_000;
/// Bytes of page-locked memory for rings and buffers.
const MIN_LOCKED: u64 = 64_000_000;
/// Threads: one per dedicated ring kernel, and the pools.
const MIN_THREADS: u64 = 1000;

pub(super) fn checks() -> Vec<Check> {
    vec![cache_line(), pinning(), asymmetric_fence(), shared_memory(), locked_memory(), maps(), threads()]
}

fn cache_line() -> Check {
    let meaning = "unit of transfer between cores; rings keep each writer on separate lines";
    // SAFETY: `sysconf` takes and returns integers and accesses no memory of this program.
    let bytes = unsafe { libc::sysconf(libc::_SC_LEVEL1_DCACHE_LINESIZE) };
    if bytes > 0 {
        // Rings pad to 128 bytes, so a longer line would cause false sharing.
        return Check::new("cache line", bytes <= 128, format!("{bytes} bytes"), meaning);
    }
    Check::new("cache line", true, "not reported by the system; rings pad to 128 bytes", meaning)
}

/// Pins a new thread to one of its allowed cores; the thread then ends.
fn pinning() -> Check {
    let pinned = std::thread::spawn(|| -> io::Result<usize> {
        let mut allowed = MaybeUninit::<libc::cpu_set_t>::zeroed();
        let bytes = size_of::<libc::cpu_set_t>();
        // SAFETY: 0 selects the calling thread; `allowed` is a writable local of exactly `bytes` bytes.
        if unsafe { libc::sched_getaffinity(0, bytes, allowed.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `cpu_set_t` is plain bits, zeroed and then filled by the successful call above.
        let allowed = unsafe { allowed.assume_init() };
        let cores = 0..libc::CPU_SETSIZE as usize;
        // SAFETY: `core` is below `CPU_SETSIZE`, so `CPU_ISSET` reads within the set.
        let core = cores.into_iter().find(|&core| unsafe { libc::CPU_ISSET(core, &allowed) });
        let core = core.ok_or_else(|| io::Error::other("no core is allowed"))?;
        // SAFETY: `cpu_set_t` is plain bits; all zero is the empty set.
        let mut one = unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() };
        // SAFETY: `core` is below `CPU_SETSIZE`, so `CPU_SET` writes within the set.
        unsafe { libc::CPU_SET(core, &mut one) };
        // SAFETY: 0 selects the calling thread; `one` is a local of `bytes` bytes that the call only reads.
        if unsafe { libc::sched_setaffinity(0, bytes, &one) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(core)
    })
    .join();
    let meaning = "a pinned ring kernel keeps its core's cache and never migrates";
    let check = match pinned {
        Ok(Ok(core)) => Check::new("pinning", true, format!("allowed (tried on core {core})"), meaning),
        Ok(Err(error)) => Check::new("pinning", false, error.to_string(), meaning),
        Err(_) => Check::new("pinning", false, "the test thread panicked", meaning),
    };
    check.with_advice("allow sched_setaffinity in the sandbox, or launch without `pinned`")
}

fn asymmetric_fence() -> Check {
    // SAFETY: the query command accesses no memory of this program; an unknown system call returns -1.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) };
    let private = libc::c_long::from(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    let available = commands >= 0 && commands & private != 0;
    let found = if available { "membarrier, private expedited" } else { "no private expedited membarrier" };
    Check::new(
        "asymmetric fence",
        available,
        found,
        "lets a sender skip its fence while no receiver is parked",
    )
    .with_advice("Linux 4.14 or newer has it; in a sandbox, allow the membarrier system call")
}

fn shared_memory() -> Check {
    let meaning = "rings between processes use it";
    let mut stats = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string literal, and `stats` is a writable local of the right type.
    let status = unsafe { libc::statvfs(c"/dev/shm".as_ptr(), stats.as_mut_ptr()) };
    if status != 0 {
        let found = format!("/dev/shm: {}", io::Error::last_os_error());
        return Check::new("shared memory", false, found, meaning).with_advice("mount a tmpfs on /dev/shm");
    }
    // SAFETY: the successful call above initialized it.
    let stats = unsafe { stats.assume_init() };
    let bytes = stats.f_blocks * stats.f_frsize;
    Check::new("shared memory", bytes >= MIN_SHARED, format!("/dev/shm holds {}", size(bytes)), meaning)
        .with_advice(
            "make it 64 MB or more: `mount -o remount,size=1G /dev/shm`, or `--shm-size=1g` for a container",
        )
}

fn locked_memory() -> Check {
    let meaning = "a GPU reads and writes page-locked memory directly";
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: `limit` is a writable local of the right type.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit.as_mut_ptr()) } != 0 {
        return Check::new("locked memory", false, io::Error::last_os_error().to_string(), meaning);
    }
    // SAFETY: the successful call above initialized it.
    let bytes = unsafe { limit.assume_init() }.rlim_cur;
    let found = if bytes == libc::RLIM_INFINITY { String::from("unlimited") } else { size(bytes) };
    Check::new("locked memory", bytes >= MIN_LOCKED, found, meaning)
        .with_advice("raise it with `ulimit -l unlimited`, or memlock in /etc/security/limits.conf")
}

fn maps() -> Check {
    sysctl(
        "mappings",
        "/proc/sys/vm/max_map_count",
        MIN_MAPS,
        "memory mappings per process; each thread needs two",
    )
    .with_advice("`sysctl -w vm.max_map_count=262144`")
}

fn threads() -> Check {
    sysctl("threads", "/proc/sys/kernel/threads-max", MIN_THREADS, "each dedicated ring kernel has its own")
        .with_advice("`sysctl -w kernel.threads-max=100000`, or run ring kernels on the shared pool")
}

fn sysctl(name: &'static str, path: &str, min: u64, meaning: &'static str) -> Check {
    match fs::read_to_string(path).map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(value)) => Check::new(name, value >= min, format!("{value}"), meaning),
        Ok(Err(_)) => Check::new(name, false, format!("{path} does not contain a number"), meaning),
        Err(error) => Check::new(name, false, format!("{path}: {error}"), meaning),
    }
}
