//! Whether the host can be given the device's own memory: then messages could lie there, and the device would poll them without crossing
//! PCIe.
//!
//! Two ways are known: a dma-buf that the driver makes and the host maps, and the device file of gdrcopy's kernel module.

use std::fs::OpenOptions;

use crate::driver::{Device, Driver, DriverError};

/// Where gdrcopy's kernel module is reached.
const GDRDRV: &str = "/dev/gdrdrv";

/// One question and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// What was tried.
    pub what: &'static str,
    /// Whether it works.
    pub works: bool,
    /// What was seen.
    pub outcome: String,
}

impl ProbeResult {
    fn of(what: &'static str, outcome: Result<String, String>) -> Self {
        let works = outcome.is_ok();
        Self { what, works, outcome: outcome.unwrap_or_else(|problem| problem) }
    }
}

/// Tries both ways on a device. Maps memory that the driver may have given by mistake: do it in a process of its own.
///
/// # Errors
///
/// [`DriverError`] without a driver or such a device.
pub fn probe(device: u32) -> Result<Vec<ProbeResult>, DriverError> {
    let driver = Driver::open()?;
    let device = driver.device(device)?;
    let said = |works: bool, name: &str| {
        let outcome = format!("the driver (CUDA {}) says so of {}: {works}", driver.version(), name);
        if works { Ok(outcome) } else { Err(outcome) }
    };
    let mut results = vec![ProbeResult::of("dma_buf_attribute", said(device.dma_buf, &device.name))];
    results.extend(dma_bufs(&device)?);
    let opened = OpenOptions::new().read(true).write(true).open(GDRDRV);
    let opened =
        opened.map(|_| format!("{GDRDRV} can be opened")).map_err(|error| format!("{GDRDRV}: {error}"));
    results.push(ProbeResult::of("gdrdrv", opened));
    Ok(results)
}

#[cfg(not(target_os = "linux"))]
fn dma_bufs(_: &Device) -> Result<Vec<ProbeResult>, DriverError> {
    Ok(vec![ProbeResult::of("dma_buf", Err(String::from("dma-bufs are of Linux")))])
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

    /// What is tried: by default, and with the flag for a mapping that goes over PCIe also where there is a faster way.
    pub(super) const EXPORT_METHODS: [(&str, u64); 2] = [("dma_buf_mmap", 0), ("dma_buf_mmap_pcie", 1)];

    /// A large page of the device.
    const BYTES: usize = 2 << 20;
    /// What the host writes, and the device's copy engine must read.
    const TEST_PATTERN: u64 = 0x0d07_c0de_5eed_cafe;

    /// Maps memory of the device, writes a word there, and reads it back by a copy from the device.
    pub(super) fn map(flags: u64) -> Result<String, String> {
        // SAFETY: a context is current.
        let memory = unsafe { result::malloc_sync(BYTES) };
        let memory = memory.map_err(|error| said("allocating device memory", error))?;
        let outcome = map_memory(memory, flags);
        // SAFETY: allocated above, and no mapping of it is left.
        let _ = unsafe { result::free_sync(memory) };
        outcome
    }

    fn map_memory(memory: sys::CUdeviceptr, flags: u64) -> Result<String, String> {
        let mut descriptor: i32 = -1;
        let kind = sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let place = (&raw mut descriptor).cast();
        // SAFETY: the range is that of an allocation, and a file descriptor is written to the place.
        unsafe { sys::cuMemGetHandleForAddressRange(place, memory, BYTES, kind, flags) }
            .result()
            .map_err(|error| said("asking for a dma-buf", error))?;
        // SAFETY: the driver has just opened it, for us.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let (readable, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address of the system's choice.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), BYTES, readable, shared, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(format!("there is a dma-buf, and mmap of it says: {}", io::Error::last_os_error()));
        }
        let word = mapped.cast::<u64>();
        // SAFETY: the mapping has that many bytes, and nobody else uses the memory behind it.
        unsafe { word.write_volatile(TEST_PATTERN) };
        fence(Ordering::SeqCst);
        let mut read = [0_u64];
        // SAFETY: the allocation is larger than a word.
        let copied = unsafe { result::memcpy_dtoh_sync(&mut read, memory) };
        // SAFETY: mapped above, and not used after this.
        unsafe { libc::munmap(mapped, BYTES) };
        copied.map_err(|error| said("reading device memory back", error))?;
        if read[0] == TEST_PATTERN {
            Ok(String::from("mapped; what the host wrote there is what the device has"))
        } else {
            Err(format!("mapped, but the device has {:#x} where the host wrote {TEST_PATTERN:#x}", read[0]))
        }
    }

    fn said(doing: &str, error: cudarc::driver::DriverError) -> String {
        DriverError::while_doing(doing)(error).to_string()
    }
}
