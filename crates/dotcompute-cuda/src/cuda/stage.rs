//! A ring kernel on a GPU: its code, its memory, its stream, and the launch that makes it resident.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_core::backend::device_port::{DeviceProgram, Shape};
use dotcompute_core::backend::{BackendError, Residency};

use super::ground::{Ground, device_error};
use super::memory::{DeviceMemory, Graveyard, Pinned};
use super::stream::Stream;

use crate::account::Share;
use crate::device_code::KERNEL;
use crate::driver::{Device, DriverError, Module};
use crate::exchange::Words;
use crate::links::LinkMemory;
use crate::protocol::{GridLine, Launch};
use crate::tenant::{Places, Stage, Stays, launch};

/// The longest pause between two looks of an idle ring kernel.
const LONGEST_PAUSE: Duration = Duration::from_micros(4);
/// States travel in pieces of so many bytes.
const PIECE: usize = 16 << 20;
/// How long the copy of a piece may take.
const COPYING: Duration = Duration::from_secs(4);

/// A ring kernel on the device.
pub(super) struct CudaStage {
    parts: Arc<Parts>,
}

/// What a ring kernel uses on the device, until it has left.
pub(super) struct Parts {
    pub(super) name: String,
    launch: Launch,
    shape: Shape,
    function: Function,
    context: Arc<CudaContext>,
    pub(super) running: Stream,
    copying: Stream,
    /// What the state begins as.
    image: Vec<u8>,
    /// How many bytes the state has; those behind the image begin as zeros.
    size: usize,
    /// Through which states travel, a piece at a time.
    staging: Mutex<Pinned>,
    state: DeviceMemory,
    grid: DeviceMemory,
    _grid_message: DeviceMemory,
    _words: Arc<Words>,
    _code: Code,
    _shares: [Share; 2],
    ground: Arc<Ground>,
    patience: Duration,
    links: Mutex<Vec<Arc<dyn LinkMemory>>>,
}

/// A module that is unloaded once the device is quiet.
pub(super) struct Code {
    module: Option<Module>,
    graveyard: Arc<Graveyard>,
}

impl Code {
    pub(super) fn new(module: Module, graveyard: &Arc<Graveyard>) -> Self {
        Self { module: Some(module), graveyard: Arc::clone(graveyard) }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        let module = self.module.take();
        self.graveyard.bury(move || drop(module));
    }
}

/// A function of a module.
#[derive(Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);

// SAFETY: a function is the context's, as its module is.
unsafe impl Send for Function {}
// SAFETY: as above; the driver takes its own locks.
unsafe impl Sync for Function {}

impl Function {
    /// The ring kernel in a module.
    pub(super) fn of(module: &Module) -> Result<Self, DriverError> {
        Self::named(module, KERNEL)
    }

    /// The kernel of this name in a module.
    pub(super) fn named(module: &Module, name: &str) -> Result<Self, DriverError> {
        let symbol = std::ffi::CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(module.handle(), symbol) };
        function.map(Self).map_err(DriverError::while_doing(format!("finding `{name}` in its module")))
    }

    /// The sizes of its parameters, in bytes.
    pub(super) fn parameters(self) -> Vec<usize> {
        let size = |index| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: a function of a module that is loaded; both may be written to. The driver refuses an index that there is not.
            let told = unsafe { sys::cuFuncGetParamInfo(self.0, index, &raw mut offset, &raw mut size) };
            (told == sys::CUresult::CUDA_SUCCESS).then_some(size)
        };
        (0..).map_while(size).collect()
    }

    /// How many blocks of so many threads a multiprocessor holds at once.
    pub(super) fn occupancy(self, threads: u32) -> Result<u32, DriverError> {
        // SAFETY: a function of a module that is loaded.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(self.0, threads.cast_signed(), 0)
        };
        let blocks = blocks.map_err(DriverError::while_doing("asking how many blocks fit"))?;
        Ok(blocks.unsigned_abs())
    }
}

/// What a stage is made of, besides memory.
pub(super) struct Ingredients {
    pub(super) context: Arc<CudaContext>,
    pub(super) ground: Arc<Ground>,
    pub(super) module: Module,
    pub(super) function: Function,
    pub(super) words: Arc<Words>,
    pub(super) stays: Stays,
    /// How long ring kernels may take to make way.
    pub(super) patience: Duration,
    pub(super) shares: [Share; 2],
}

impl CudaStage {
    /// Takes everything that the ring kernel needs. The device is quiet.
    pub(super) fn new(name: &str, program: &DeviceProgram, from: Ingredients) -> Result<Self, DriverError> {
        let Ingredients { context, ground, module, function, words, stays, patience, shares } = from;
        let graveyard = Arc::clone(&ground.graveyard);
        let code = Code::new(module, &graveyard);
        let running = Stream::new(&context, &graveyard)?;
        let copying = Stream::new(&context, &graveyard)?;
        let (image, size) = (program.state.bytes.clone(), program.state.size);
        let staging = Pinned::zeroed(&context, &graveyard, size.min(PIECE))?;
        let state = DeviceMemory::new(&context, &graveyard, size)?;
        let grid = DeviceMemory::new(&context, &graveyard, size_of::<GridLine>())?;
        let grid_message = DeviceMemory::new(&context, &graveyard, program.input.size)?;
        let places =
            Places { grid: grid.address(), grid_message: grid_message.address(), state: state.address() };
        let launch = launch(&words, places, program, stays, LONGEST_PAUSE);
        let parts = Parts {
            name: name.to_owned(),
            launch,
            shape: program.shape,
            function,
            context,
            running,
            copying,
            image,
            size,
            staging: Mutex::new(staging),
            state,
            grid,
            _grid_message: grid_message,
            _words: words,
            _code: code,
            _shares: shares,
            ground: Arc::clone(&ground),
            patience,
            links: Mutex::default(),
        };
        parts.make_state()?;
        let parts = Arc::new(parts);
        ground.keep(&parts);
        Ok(Self { parts })
    }
}

impl Parts {
    /// Makes the state what it begins as.
    fn make_state(&self) -> Result<(), DriverError> {
        self.write_state(&self.image)?;
        let (at, rest) = (self.image.len(), self.size - self.image.len());
        if rest == 0 {
            return Ok(());
        }
        let doing = || format!("clearing a state of {} bytes", self.size);
        // SAFETY: within the state, which `self` keeps.
        unsafe { result::memset_d8_async(self.state.address() + at as u64, 0, rest, self.copying.handle()) }
            .map_err(DriverError::while_doing(doing()))?;
        self.copied(doing)
    }

    /// Copies bytes to the state, by the copy engine, beside whatever is resident.
    fn write_state(&self, bytes: &[u8]) -> Result<(), DriverError> {
        let doing = || format!("writing a state of {} bytes", bytes.len());
        self.context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            staging.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let (to, from) = (self.state.address() + (index * PIECE) as u64, &staging.bytes()[..piece.len()]);
            // SAFETY: the state has at least as many bytes as what is written: callers see to it. `self` keeps both, and
            // the piece is page-locked and not written to before the copy is done.
            unsafe { result::memcpy_htod_async(to, from, self.copying.handle()) }
                .map_err(DriverError::while_doing(doing()))?;
            self.copied(doing)?;
        }
        Ok(())
    }

    /// Copies the state to the host, in the same way.
    fn read_state(&self) -> Result<Vec<u8>, DriverError> {
        let doing = || format!("reading a state of {} bytes", self.size);
        self.context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = Vec::new();
        state.try_reserve_exact(self.size).map_err(|_| DriverError::OutOfMemory { doing: doing() })?;
        while state.len() < self.size {
            let length = (self.size - state.len()).min(PIECE);
            let (to, from) = (&mut staging.bytes_mut()[..length], self.state.address() + state.len() as u64);
            // SAFETY: as for `write_state`; nobody reads the piece before the copy is done.
            unsafe { result::memcpy_dtoh_async(to, from, self.copying.handle()) }
                .map_err(DriverError::while_doing(doing()))?;
            self.copied(doing)?;
            state.extend_from_slice(&staging.bytes()[..length]);
        }
        Ok(state)
    }

    /// Memory for a link, and what is needed to read it. The device is quiet.
    fn link_memory(&self, bytes: usize) -> Result<CudaLink, DriverError> {
        let graveyard = &self.ground.graveyard;
        let memory = DeviceMemory::new(&self.context, graveyard, bytes)?;
        let staging = Mutex::new(Pinned::zeroed(&self.context, graveyard, bytes)?);
        let stream = Stream::new(&self.context, graveyard)?;
        let link = CudaLink { context: Arc::clone(&self.context), memory, bytes, staging, stream };
        // SAFETY: so many bytes of memory that nobody else knows of yet.
        unsafe { result::memset_d8_async(link.memory.address(), 0, bytes, link.stream.handle()) }
            .map_err(DriverError::while_doing(format!("clearing {bytes} bytes for a link")))?;
        link.wait()?;
        Ok(link)
    }

    fn copied(&self, doing: impl Fn() -> String) -> Result<(), DriverError> {
        if self.copying.wait(Instant::now() + COPYING)? {
            Ok(())
        } else {
            Err(DriverError::TimedOut { doing: doing(), waited: COPYING })
        }
    }

    fn launch(&self) -> Result<(), DriverError> {
        let doing = || DriverError::while_doing("launching a ring kernel");
        self.context.bind_to_thread().map_err(doing())?;
        let (grid, stream) = (self.grid.address(), self.running.handle());
        // SAFETY: the line is as large as that, and the stream orders this before the launch.
        unsafe { result::memset_d8_async(grid, 0, size_of::<GridLine>(), stream) }.map_err(doing())?;
        let mut argument = self.launch;
        let mut arguments: [*mut c_void; 1] = [(&raw mut argument).cast()];
        let blocks = (self.shape.blocks(), 1, 1);
        let threads = (self.shape.threads(), 1, 1);
        // SAFETY: the function takes one `Launch`, which the driver copies before it returns; all addresses in it are of memory that
        // `self` keeps until the stream is done.
        let launched = unsafe {
            if matches!(self.shape, Shape::Grid { .. }) {
                result::launch_cooperative_kernel(self.function.0, blocks, threads, 0, stream, &mut arguments)
            } else {
                result::launch_kernel(self.function.0, blocks, threads, 0, stream, &mut arguments)
            }
        };
        launched.map_err(doing())
    }
}

impl Stage for CudaStage {
    fn start(&self) -> Result<(), BackendError> {
        self.parts.launch().map_err(|error| device_error("launching it", &error))
    }

    fn wait_gone(&self, deadline: Instant) -> bool {
        // An error is no reason to wait longer; the watcher reports it.
        self.parts.running.wait(deadline).unwrap_or(true)
    }

    fn reset_state(&self) -> Result<(), BackendError> {
        self.parts.make_state().map_err(|error| device_error("making its state anew", &error))
    }

    fn read_state(&self) -> Result<Vec<u8>, BackendError> {
        self.parts.read_state().map_err(|error| device_error("reading its state", &error))
    }

    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError> {
        let doing = "writing its state";
        let fits = crate::limits::same_size(self.parts.size, bytes.len());
        fits.map_err(|problem| device_error(doing, &problem))?;
        self.parts.write_state(bytes).map_err(|error| device_error(doing, &error))
    }

    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.parts.ground.quiesced(self.parts.patience, act)
    }

    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError> {
        let memory = self.parts.link_memory(bytes);
        Ok(Arc::new(memory.map_err(|error| device_error("taking memory for a link", &error))?))
    }

    fn keep(&self, memory: Arc<dyn LinkMemory>) {
        self.parts.links.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    fn ground(&self) -> usize {
        Arc::as_ptr(&self.parts.ground).addr()
    }

    fn trouble(&self) -> Option<String> {
        self.parts.running.is_done().err().map(|error| error.to_string())
    }
}

/// The memory of a link.
struct CudaLink {
    context: Arc<CudaContext>,
    memory: DeviceMemory,
    bytes: usize,
    staging: Mutex<Pinned>,
    stream: Stream,
}

impl CudaLink {
    fn wait(&self) -> Result<(), DriverError> {
        if self.stream.wait(Instant::now() + COPYING)? {
            return Ok(());
        }
        Err(DriverError::TimedOut {
            doing: format!("moving {} bytes of a link", self.bytes),
            waited: COPYING,
        })
    }

    fn copy(&self) -> Result<Vec<u8>, DriverError> {
        let doing = || DriverError::while_doing(format!("reading {} bytes of a link", self.bytes));
        self.context.bind_to_thread().map_err(doing())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let to = &mut staging.bytes_mut()[..self.bytes];
        // SAFETY: both have as many bytes and live as long as `self`; nobody reads the page-locked ones before the copy is done.
        unsafe { result::memcpy_dtoh_async(to, self.memory.address(), self.stream.handle()) }
            .map_err(doing())?;
        self.wait()?;
        Ok(staging.bytes()[..self.bytes].to_vec())
    }
}

impl LinkMemory for CudaLink {
    fn address(&self) -> u64 {
        self.memory.address()
    }

    fn read(&self) -> Result<Vec<u8>, BackendError> {
        self.copy().map_err(|error| device_error("reading what waits in a link", &error))
    }
}

/// The runtime's hold on a ring kernel on a GPU.
pub(super) struct CudaResidency(pub(super) Arc<CudaStage>);

impl Residency for CudaResidency {
    fn join(&self, deadline: Instant) -> bool {
        self.0.wait_gone(deadline)
    }
}

/// How many multiprocessors a ring kernel takes, or why it cannot be resident on this device at all.
pub(super) fn fits(device: &Device, function: Function, shape: Shape) -> Result<u32, String> {
    let occupancy = function.occupancy(shape.threads()).map_err(|error| error.to_string())?;
    let most = occupancy.saturating_mul(device.multiprocessors);
    if shape.blocks() > most {
        return Err(format!(
            "a grid of {} blocks of {} threads cannot be resident at once: {occupancy} fit on each of the {} multiprocessors of {}, \
             {most} in all",
            shape.blocks(),
            shape.threads(),
            device.multiprocessors,
            device.name
        ));
    }
    // Blocks are spread over the multiprocessors, so each takes one for itself until there are no more.
    Ok(shape.blocks().min(device.multiprocessors))
}
