//! A device and what it can do.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, result, sys};

use super::DriverError;
use crate::Architecture;

/// A device and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Index of the device in this process, from 0.
    pub index: u32,
    /// Name, such as `NVIDIA H200`.
    pub name: String,
    /// Architecture of the code that the device executes.
    pub architecture: Architecture,
    /// Size of the device memory in bytes.
    pub memory: u64,
    /// PCI address, as `domain:bus:device.function` in lower case.
    pub pci: String,
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// Maximum number of resident threads per multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Maximum number of resident blocks per multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// Number of 32-bit registers per multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Shared memory per multiprocessor in bytes.
    pub shared_per_multiprocessor: u32,
    /// Maximum shared memory per block in bytes, with opt-in.
    pub shared_per_block: u32,
    /// Number of threads in a warp.
    pub warp: u32,
    /// Maximum number of threads per block.
    pub threads_per_block: u32,
    /// Maximum block size in each dimension, in threads.
    pub block_dimensions: [u32; 3],
    /// Maximum grid size in each dimension, in blocks.
    pub grid_dimensions: [u32; 3],
    /// Whether the device can access page-locked host memory. Ring kernels require that.
    pub maps_host_memory: bool,
    /// Whether the device supports cooperative launch, which guarantees that the whole grid is resident.
    pub cooperative_launch: bool,
    /// Whether the device supports memory pools, which allocate without waiting for the device.
    pub memory_pools: bool,
    /// Whether device memory can be exported as a dma-buf.
    pub dma_buf: bool,
}

impl Device {
    /// Reads the attributes of the device with this index, which must exist.
    pub(super) fn read(index: u32) -> Result<Self, DriverError> {
        let reader = AttributeReader::of(index)?;
        let architecture = Architecture {
            major: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        Ok(Self {
            index,
            name: result::device::get_name(reader.device).map_err(reader.failed("the name"))?,
            architecture,
            memory: reader.memory()?,
            pci: reader.pci()?,
            multiprocessors: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads_per_multiprocessor: reader
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            blocks_per_multiprocessor: reader
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
            registers_per_multiprocessor: reader
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            shared_per_multiprocessor: reader
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            shared_per_block: reader
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            warp: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
            threads_per_block: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            block_dimensions: reader.numbers([
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z,
            ])?,
            grid_dimensions: reader.numbers([
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z,
            ])?,
            maps_host_memory: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)? != 0,
            cooperative_launch: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
            memory_pools: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
            dma_buf: reader.number(Attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)? != 0,
        })
    }

    /// Returns the device's primary context, which the process shares, and makes it current for this thread.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`], for example if there is not enough memory.
    pub fn context(&self) -> Result<Arc<CudaContext>, DriverError> {
        let doing = format!("creating a context on device {}, {}", self.index, self.name);
        CudaContext::new(self.index as usize).map_err(DriverError::while_doing(doing))
    }
}

/// Reads the attributes of one device.
struct AttributeReader {
    index: u32,
    device: sys::CUdevice,
}

impl AttributeReader {
    fn of(index: u32) -> Result<Self, DriverError> {
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let device = result::device::get(ordinal)
            .map_err(DriverError::while_doing(format!("finding device {index}")))?;
        Ok(Self { index, device })
    }

    fn failed(&self, what: &str) -> impl FnOnce(cudarc::driver::DriverError) -> DriverError + use<> {
        DriverError::while_doing(format!("reading {what} of device {}", self.index))
    }

    fn number(&self, attribute: Attribute) -> Result<u32, DriverError> {
        // SAFETY: `self.device` was returned by the driver in `of`.
        let value = unsafe { result::device::get_attribute(self.device, attribute) };
        let value = value.map_err(|error| self.failed(&format!("{attribute:?}"))(error))?;
        Ok(value.unsigned_abs())
    }

    fn numbers(&self, attributes: [Attribute; 3]) -> Result<[u32; 3], DriverError> {
        let [x, y, z] = attributes;
        Ok([self.number(x)?, self.number(y)?, self.number(z)?])
    }

    fn memory(&self) -> Result<u64, DriverError> {
        // SAFETY: `self.device` was returned by the driver in `of`.
        let bytes = unsafe { result::device::total_mem(self.device) };
        Ok(bytes.map_err(self.failed("the memory"))? as u64)
    }

    fn pci(&self) -> Result<String, DriverError> {
        // `0000:00:00.0` and a NUL are 13 bytes; a domain may have eight digits.
        let mut buffer = [0_u8; 32];
        let at: *mut c_char = buffer.as_mut_ptr().cast();
        // SAFETY: `self.device` was returned by the driver in `of`. The driver writes at most `buffer.len()` bytes, the last of them a NUL.
        let outcome = unsafe { sys::cuDeviceGetPCIBusId(at, buffer.len() as c_int, self.device) }.result();
        outcome.map_err(self.failed("the PCI address"))?;
        let text = CStr::from_bytes_until_nul(&buffer).map(CStr::to_string_lossy).unwrap_or_default();
        Ok(text.to_ascii_lowercase())
    }
}
