//! What only Linux can be asked.

use std::fs;
use std::io;
use std::mem::MaybeUninit;

use super::check::{Check, size};

/// What a hundred thousand ring kernels may map, generously.
const MIN_MAPS: u64 = 65_530;
/// Rings between processes live in shared memory.
const MIN_SHARED: u64 = 64_000_000;
/// Page-locked rings and buffers.
const MIN_LOCKED: u64 = 64_000_000;
/// A thread for each pinned ring kernel, and the pools.
const MIN_THREADS: u64 = 1000;

pub(super) fn checks() -> Vec<Check> {
    vec![cache_line(), pinning(), asymmetric_fence(), shared_memory(), locked_memory(), maps(), threads()]
}

fn cache_line() -> Check {
    let meaning = "what two cores pass to and fro; rings keep each writer on lines of its own";
    // SAFETY: `sysconf` takes a number and returns one; it touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_LEVEL1_DCACHE_LINESIZE) };
    if bytes > 0 {
        // Rings pad to 128 bytes.
        return Check::new("cache line", bytes <= 128, format!("{bytes} bytes"), meaning);
    }
    Check::new("cache line", true, "not told by the system; rings take 128 bytes to be safe", meaning)
}

/// Pins a thread of its own to one core that it may use, and lets the thread end.
fn pinning() -> Check {
    let pinned = std::thread::spawn(|| -> io::Result<usize> {
        let mut allowed = MaybeUninit::<libc::cpu_set_t>::zeroed();
        let bytes = size_of::<libc::cpu_set_t>();
        // SAFETY: 0 means the calling thread, and the set is ours, writable and `bytes` long.
        if unsafe { libc::sched_getaffinity(0, bytes, allowed.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zeroed bits are a valid (empty) set, and the call above succeeded.
        let allowed = unsafe { allowed.assume_init() };
        let cores = 0..libc::CPU_SETSIZE as usize;
        // SAFETY: `CPU_ISSET` reads a bit of the set below its size.
        let core = cores.into_iter().find(|&core| unsafe { libc::CPU_ISSET(core, &allowed) });
        let core = core.ok_or_else(|| io::Error::other("no core is allowed"))?;
        // SAFETY: zeroed bits are a valid (empty) set.
        let mut one = unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() };
        // SAFETY: `CPU_SET` writes a bit of the set below its size.
        unsafe { libc::CPU_SET(core, &mut one) };
        // SAFETY: as above; the set is only read.
        if unsafe { libc::sched_setaffinity(0, bytes, &one) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(core)
    })
    .join();
    let meaning = "a pinned ring kernel keeps its core's cache and never waits for a move";
    let check = match pinned {
        Ok(Ok(core)) => Check::new("pinning", true, format!("allowed (tried on core {core})"), meaning),
        Ok(Err(error)) => Check::new("pinning", false, error.to_string(), meaning),
        Err(_) => Check::new("pinning", false, "the trial thread failed", meaning),
    };
    check.with_advice("allow sched_setaffinity in the sandbox, or launch without `pinned`")
}

fn asymmetric_fence() -> Check {
    // SAFETY: the query command reads no memory of ours; an unknown system call returns -1.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) };
    let private = libc::c_long::from(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    let there = commands >= 0 && commands & private != 0;
    let found = if there { "membarrier, private expedited" } else { "no private expedited membarrier" };
    Check::new("asymmetric fence", there, found, "lets a sender skip its fence while nobody sleeps")
        .with_advice("Linux 4.14 or newer has it; in a sandbox, allow the membarrier system call")
}

fn shared_memory() -> Check {
    let meaning = "rings between processes live in it";
    let mut figures = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is a C string, the structure is ours and writable.
    let status = unsafe { libc::statvfs(c"/dev/shm".as_ptr(), figures.as_mut_ptr()) };
    if status != 0 {
        let found = format!("/dev/shm: {}", io::Error::last_os_error());
        return Check::new("shared memory", false, found, meaning).with_advice("mount a tmpfs on /dev/shm");
    }
    // SAFETY: the call succeeded and has filled it in.
    let figures = unsafe { figures.assume_init() };
    let bytes = figures.f_blocks * figures.f_frsize;
    Check::new("shared memory", bytes >= MIN_SHARED, format!("/dev/shm holds {}", size(bytes)), meaning)
        .with_advice(
            "make it 64 MB or more: `mount -o remount,size=1G /dev/shm`, or `--shm-size=1g` for a container",
        )
}

fn locked_memory() -> Check {
    let meaning = "page-locked memory, which a GPU reads and writes by itself";
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the structure is ours and writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit.as_mut_ptr()) } != 0 {
        return Check::new("locked memory", false, io::Error::last_os_error().to_string(), meaning);
    }
    // SAFETY: the call succeeded and has filled it in.
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
        "what one process may map; each thread takes two",
    )
    .with_advice("`sysctl -w vm.max_map_count=262144`")
}

fn threads() -> Check {
    sysctl("threads", "/proc/sys/kernel/threads-max", MIN_THREADS, "each dedicated ring kernel has one")
        .with_advice("`sysctl -w kernel.threads-max=100000`, or run ring kernels on the shared pool")
}

fn sysctl(name: &'static str, path: &str, enough: u64, meaning: &'static str) -> Check {
    match fs::read_to_string(path).map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(value)) => Check::new(name, value >= enough, format!("{value}"), meaning),
        Ok(Err(_)) => Check::new(name, false, format!("{path} holds no number"), meaning),
        Err(error) => Check::new(name, false, format!("{path}: {error}"), meaning),
    }
}
