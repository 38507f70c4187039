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
    /// Its number in this process, from 0.
    pub index: u32,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// What code it executes.
    pub architecture: Architecture,
    /// Bytes of its memory.
    pub memory: u64,
    /// Where it is, as `domain:bus:device.function`, in lower case.
    pub pci: String,
    /// How many streaming multiprocessors it has.
    pub multiprocessors: u32,
    /// How many threads a multiprocessor can hold.
    pub threads_per_multiprocessor: u32,
    /// How many blocks a multiprocessor can hold.
    pub blocks_per_multiprocessor: u32,
    /// How many 32-bit registers a multiprocessor has.
    pub registers_per_multiprocessor: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Bytes of shared memory that one block can ask for.
    pub shared_per_block: u32,
    /// How many threads of a block go in step.
    pub warp: u32,
    /// The most threads of a block.
    pub threads_per_block: u32,
    /// The most threads of a block in each dimension.
    pub block_dimensions: [u32; 3],
    /// The most blocks of a grid in each dimension.
    pub grid_dimensions: [u32; 3],
    /// Whether it can read and write page-locked memory of the host: ring kernels need that.
    pub maps_host_memory: bool,
    /// Whether a grid can be launched that is sure to be resident as a whole.
    pub cooperative_launch: bool,
    /// Whether it has memory pools, so that memory can be had without waiting for the device.
    pub memory_pools: bool,
    /// Whether its memory can be given to others as a dma-buf.
    pub dma_buf: bool,
}

impl Device {
    /// Reads what the driver tells of the device of this index, which exists.
    pub(super) fn read(index: u32) -> Result<Self, DriverError> {
        let ask = Ask::of(index)?;
        let architecture = Architecture {
            major: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        Ok(Self {
            index,
            name: result::device::get_name(ask.device).map_err(ask.failed("the name"))?,
            architecture,
            memory: ask.memory()?,
            pci: ask.pci()?,
            multiprocessors: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads_per_multiprocessor: ask
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            blocks_per_multiprocessor: ask
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
            registers_per_multiprocessor: ask
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            shared_per_multiprocessor: ask
                .number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            shared_per_block: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            warp: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
            threads_per_block: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            block_dimensions: ask.numbers([
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z,
            ])?,
            grid_dimensions: ask.numbers([
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z,
            ])?,
            maps_host_memory: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)? != 0,
            cooperative_launch: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
            memory_pools: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
            dma_buf: ask.number(Attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)? != 0,
        })
    }

    /// The device's primary context, which all of the process share, made current for this thread.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`], for want of memory say.
    pub fn context(&self) -> Result<Arc<CudaContext>, DriverError> {
        let doing = format!("making a context on device {}, {}", self.index, self.name);
        CudaContext::new(self.index as usize).map_err(DriverError::while_doing(doing))
    }
}

/// The questions to one device.
struct Ask {
    index: u32,
    device: sys::CUdevice,
}

impl Ask {
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
        // SAFETY: the device is one that the driver has given.
        let value = unsafe { result::device::get_attribute(self.device, attribute) };
        let value = value.map_err(|error| self.failed(&format!("{attribute:?}"))(error))?;
        Ok(value.unsigned_abs())
    }

    fn numbers(&self, attributes: [Attribute; 3]) -> Result<[u32; 3], DriverError> {
        let [x, y, z] = attributes;
        Ok([self.number(x)?, self.number(y)?, self.number(z)?])
    }

    fn memory(&self) -> Result<u64, DriverError> {
        // SAFETY: as above.
        let bytes = unsafe { result::device::total_mem(self.device) };
        Ok(bytes.map_err(self.failed("the memory"))? as u64)
    }

    fn pci(&self) -> Result<String, DriverError> {
        // `0000:00:00.0` and a NUL are 13; a domain may have eight digits.
        let mut buffer = [0_u8; 32];
        let at: *mut c_char = buffer.as_mut_ptr().cast();
        // SAFETY: as above; the driver writes no more than the 32 bytes that there are, the last of them a NUL.
        let outcome = unsafe { sys::cuDeviceGetPCIBusId(at, buffer.len() as c_int, self.device) }.result();
        outcome.map_err(self.failed("the PCI address"))?;
        let text = CStr::from_bytes_until_nul(&buffer).map(CStr::to_string_lossy).unwrap_or_default();
        Ok(text.to_ascii_lowercase())
    }
}
