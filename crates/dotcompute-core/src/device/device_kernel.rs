//! Description of a ring kernel for a device: its handler, its state, and how many threads handle a message.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::backend::device_port::{AfterFault, DeviceCode, DeviceProgram, StateImage};
use crate::message::record::{DeviceRecord, RecordBytes, RecordLayout, RecordMessage, bytes_of};

pub use crate::backend::device_port::Shape;

/// Default name of the handler's function.
const ENTRY: &str = "handle";
/// Default capacity of the device's input ring, in messages.
const DEFAULT_QUEUE_CAPACITY: usize = 64;

/// A ring kernel on a device that handles `I` and sends `O`. Launched by
/// [`Runtime::launch_on_device`](crate::runtime::Runtime::launch_on_device).
///
/// The handler is one device function. The C structs of its messages are prepended to its text:
///
/// ```
/// use dotcompute_core::device::{DeviceKernel, Shape};
/// use dotcompute_core::message::Message;
///
/// #[derive(Message, Clone, Copy)]
/// #[message(record)]
/// #[repr(C)]
/// struct Add { value: u64 }
///
/// #[derive(Message, Clone, Copy)]
/// #[message(record)]
/// #[repr(C)]
/// struct Sum { total: u64 }
///
/// let kernel = DeviceKernel::<Add, Sum>::cuda_cpp("sum.cu", r#"
///     extern "C" __device__ int32_t handle(Ctx *ctx, Sum *state, const Add *add, Sum *reply) {
///         state->total += add->value;
///         *reply = *state;
///         ctx->reply(reply);
///         return 0;
///     }
/// "#)
/// .state(Sum { total: 0 })
/// .shape(Shape::Thread { threads: 1 });
/// # let _ = kernel;
/// ```
pub struct DeviceKernel<I, O> {
    program: DeviceProgram,
    messages: PhantomData<fn(I) -> O>,
}

impl<I: RecordMessage, O: RecordMessage> DeviceKernel<I, O> {
    /// A handler in CUDA C++, without state and with the default [`Shape`]. `file` names the text in compile errors.
    #[must_use]
    pub fn cuda_cpp(file: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(DeviceCode::CudaCpp { file: file.into(), text: text.into() })
    }

    /// A handler in this code, without state and with the default [`Shape`].
    #[must_use]
    pub fn new(code: DeviceCode) -> Self {
        Self { program: program(code, I::LAYOUT, O::LAYOUT), messages: PhantomData }
    }
}

fn program(code: DeviceCode, input: RecordLayout, output: RecordLayout) -> DeviceProgram {
    DeviceProgram {
        code,
        entry: Cow::Borrowed(ENTRY),
        state: StateImage { bytes: Vec::new(), size: 0, align: 1, layout: None },
        input,
        output,
        shape: Shape::default(),
        queue_capacity: DEFAULT_QUEUE_CAPACITY,
        after_fault: AfterFault::Hold,
        fast_math: false,
        records: Arc::from([]),
        faults: Arc::from([]),
    }
}

impl DeviceKernel<RecordBytes, RecordBytes> {
    /// A handler whose message layouts are known only at run time.
    ///
    /// Every message sent to it must have the size of the input layout.
    #[must_use]
    pub fn with_layouts(code: DeviceCode, input: RecordLayout, output: RecordLayout) -> Self {
        Self { program: program(code, input, output), messages: PhantomData }
    }
}

impl<I: DeviceRecord, O: DeviceRecord> DeviceKernel<I, O> {
    /// Sets the name of the handler's function. Default `handle`.
    #[must_use]
    pub fn entry(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.program.entry = name.into();
        self
    }

    /// Gives the handler a state, initialized from this record at launch and after each restart.
    #[must_use]
    pub fn state<S: RecordMessage>(mut self, state: S) -> Self {
        let bytes = bytes_of(&state).to_vec();
        let (size, align) = (bytes.len(), align_of::<S>());
        self.program.state = StateImage { bytes, size, align, layout: Some(S::LAYOUT) };
        self
    }

    /// Gives the handler a state, initialized from these bytes and aligned to `align` (a power of two). The code defines its struct.
    #[must_use]
    pub fn state_bytes(mut self, bytes: Vec<u8>, align: usize) -> Self {
        let size = bytes.len();
        self.program.state = StateImage { bytes, size, align, layout: None };
        self
    }

    /// Sets the size of the state in bytes. Bytes beyond the initial image start as zeros: for states that are too large to copy from the
    /// host. The code defines the struct `State`. A state that does not fit into device memory is an error at launch.
    ///
    /// ```
    /// # use dotcompute_core::{Message, device::DeviceKernel};
    /// # #[derive(Message, Clone, Copy)]
    /// # #[message(record)]
    /// # #[repr(C)]
    /// # struct Number { value: u64 }
    /// // A table of 1 GiB behind a header of 16 bytes, which has initial values.
    /// let text = "struct State { unsigned long long head[2], table[1 << 27]; }; // ...";
    /// let kernel = DeviceKernel::<Number, Number>::cuda_cpp("table.cu", text)
    ///     .state_bytes(vec![1; 16], 8)
    ///     .state_size(16 + (1 << 30));
    /// # let _ = kernel;
    /// ```
    #[must_use]
    pub fn state_size(mut self, bytes: usize) -> Self {
        let state = &mut self.program.state;
        state.size = bytes.max(state.bytes.len());
        // A record has exactly its own size; a larger state has no record layout.
        if state.size > state.bytes.len() {
            state.layout = None;
        }
        self
    }

    /// Sets how many threads handle a message.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.program.shape = shape;
        self
    }

    /// Sets the capacity of the device's input ring, in messages. Messages in it are in order; further ones wait on the host, by priority.
    #[must_use]
    pub fn queue_capacity(mut self, messages: usize) -> Self {
        self.program.queue_capacity = messages;
        self
    }

    /// Allows faster floating-point arithmetic on GPUs: products fused with sums, approximate division, square root and functions, and
    /// subnormal numbers that become zero. Without it a handler computes what its text says, so that the CPU, the emulated device and every
    /// GPU agree to the last bit. The emulated device does not use it.
    ///
    /// ```
    /// # use dotcompute_core::{Message, device::DeviceKernel};
    /// # #[derive(Message, Clone, Copy)]
    /// # #[message(record)]
    /// # #[repr(C)]
    /// # struct Number { value: u64 }
    /// let kernel = DeviceKernel::<Number, Number>::cuda_cpp("model.cu", "// ...").fast_math(true);
    /// assert!(kernel.program().fast_math);
    /// ```
    #[must_use]
    pub fn fast_math(mut self, allowed: bool) -> Self {
        self.program.fast_math = allowed;
        self
    }

    /// Sets what a text that was made from Rust has: its records, and the texts of its faults, whose codes count up from the smallest `i32`.
    pub(crate) fn made_from_rust(mut self, records: Vec<RecordLayout>, faults: Vec<String>) -> Self {
        self.program.records = records.into();
        self.program.faults = faults.into();
        self
    }

    /// Returns the program that a backend launches.
    #[must_use]
    pub fn program(&self) -> &DeviceProgram {
        &self.program
    }

    pub(crate) fn into_program(self, after_fault: AfterFault) -> DeviceProgram {
        DeviceProgram { after_fault, ..self.program }
    }
}
