//! Probes whether the host can map device memory. If it can, messages could lie there, and the device could poll them without crossing
//! PCIe.
//!
//! Two methods are probed: a dma-buf that the driver exports and the host maps, and the device file of gdrcopy's kernel module.

use std::fs::OpenOptions;

use crate::driver::{Device, Driver, DriverError};

/// The device file of gdrcopy's kernel module.
const GDRDRV: &str = "/dev/gdrdrv";

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// The name of the probe.
    pub what: &'static str,
    /// Whether the method works.
    pub works: bool,
    /// What was observed.
    pub outcome: String,
}

impl ProbeResult {
    fn of(what: &'static str, outcome: Result<String, String>) -> Self {
        let works = outcome.is_ok();
        Self { what, works, outcome: outcome.unwrap_or_else(|problem| problem) }
    }
}

/// Runs every probe on a device. A faulty driver may export the wrong memory, so run this in a separate process.
///
/// # Errors
///
/// [`DriverError`] without a driver or such a device.
pub fn probe(device: u32) -> Result<Vec<ProbeResult>, DriverError> {
    let driver = Driver::open()?;
    let device = driver.device(device)?;
    let reported = |works: bool, name: &str| {
        let outcome = format!("the driver (CUDA {}) reports {works} for {}", driver.version(), name);
        if works { Ok(outcome) } else { Err(outcome) }
    };
    let mut results = vec![ProbeResult::of("dma_buf_attribute", reported(device.dma_buf, &device.name))];
    results.extend(dma_bufs(&device)?);
    let opened = OpenOptions::new().read(true).write(true).open(GDRDRV);
    let opened =
        opened.map(|_| format!("{GDRDRV} can be opened")).map_err(|error| format!("{GDRDRV}: {error}"));
    results.push(ProbeResult::of("gdrdrv", opened));
    Ok(results)
}

#[cfg(not(target_os = "linux"))]
fn dma_bufs(_: &Device) -> Result<Vec<ProbeResult>, DriverError> {
    Ok(vec![ProbeResult::of("dma_buf", Err(String::from("dma-bufs exist on Linux only")))])
}

#[cfg(target_os = "linux")]
fn dma_bufs(device: &Device) -> Result<Vec<ProbeResult>, DriverError> {
    let _context = device.context()?;
    Ok(linux::EXPORT_METHODS.map(|(what, flags)| ProbeResult::of(what, linux::map(flags))).into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::sync::atomic::{Ordering, fence};

    use cudarc::driver::{result, sys};

    use crate::driver::DriverError;

    /// The export flags to probe: the default, and the flag that maps over PCIe even if a faster path exists.
    pub(super) const EXPORT_METHODS: [(&str, u64); 2] = [("dma_buf_mmap", 0), ("dma_buf_mmap_pcie", 1)];

    /// The size of a large device page.
    const BYTES: usize = 2 << 20;
    /// The pattern that the host writes and the device's copy engine must read back.
    const TEST_PATTERN: u64 = 0x0d07_c0de_5eed_cafe;

    /// Maps device memory, writes a word through the mapping, and reads it back with a copy from the device.
    pub(super) fn map(flags: u64) -> Result<String, String> {
        // SAFETY: the caller holds the context, which is current for this thread.
        let memory = unsafe { result::malloc_sync(BYTES) };
        let memory = memory.map_err(|error| describe_error("allocating device memory", error))?;
        let outcome = map_memory(memory, flags);
        // SAFETY: the memory was allocated above; `map_memory` has removed its mapping.
        let _ = unsafe { result::free_sync(memory) };
        outcome
    }

    fn map_memory(memory: sys::CUdeviceptr, flags: u64) -> Result<String, String> {
        let mut descriptor: i32 = -1;
        let kind = sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let handle = (&raw mut descriptor).cast();
        // SAFETY: the range is one allocation, and the driver writes a file descriptor to `descriptor`.
        unsafe { sys::cuMemGetHandleForAddressRange(handle, memory, BYTES, kind, flags) }
            .result()
            .map_err(|error| describe_error("asking for a dma-buf", error))?;
        // SAFETY: the driver has just opened the descriptor, and no other owner exists.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let (readable, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: this creates a new mapping at an address that the system selects.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), BYTES, readable, shared, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(format!("mapping the dma-buf: {}", io::Error::last_os_error()));
        }
        let word = mapped.cast::<u64>();
        // SAFETY: the mapping is larger than a word, and the memory behind it has no other user.
        unsafe { word.write_volatile(TEST_PATTERN) };
        fence(Ordering::SeqCst);
        let mut read = [0_u64];
        // SAFETY: the allocation is larger than a word.
        let copied = unsafe { result::memcpy_dtoh_sync(&mut read, memory) };
        // SAFETY: the range was mapped above and is not used after this call.
        unsafe { libc::munmap(mapped, BYTES) };
        copied.map_err(|error| describe_error("reading device memory back", error))?;
        if read[0] == TEST_PATTERN {
            Ok(String::from("mapped; the device reads what the host wrote"))
        } else {
            Err(format!("mapped, but the device reads {:#x} where the host wrote {TEST_PATTERN:#x}", read[0]))
        }
    }

    fn describe_error(doing: &str, error: cudarc::driver::DriverError) -> String {
        DriverError::while_doing(doing)(error).to_string()
    }
}
