//! The memory of idle ring kernels: their rings are allocated by the first message, not at launch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use dotcompute_core::error::HandlerResult;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::runtime::Runtime;

/// Counts the bytes of all live allocations.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: allocates and frees as `System` does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this function.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Replies with the first byte of its message.
struct First<const BYTES: usize>;

impl<const BYTES: usize> RingKernel for First<BYTES>
where
    [u8; BYTES]: dotcompute_core::message::Message,
{
    type Input = [u8; BYTES];
    type Output = u8;

    fn handle(&mut self, message: [u8; BYTES], ctx: &mut Context<u8>) -> HandlerResult {
        ctx.reply(message[0]);
        Ok(())
    }
}

fn launch<const BYTES: usize>(runtime: &Runtime, name: &str) -> KernelHandle<[u8; BYTES], u8>
where
    [u8; BYTES]: dotcompute_core::message::Message,
{
    let kernel = runtime.launch(name, || First::<BYTES>).unwrap();
    kernel.activate().unwrap();
    kernel
}

fn idle_bytes<const BYTES: usize>(runtime: &Runtime) -> usize
where
    [u8; BYTES]: dotcompute_core::message::Message,
{
    const KERNELS: usize = 500;
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let kernels: Vec<_> =
        (0..KERNELS).map(|index| launch::<BYTES>(runtime, &format!("{BYTES}-{index}"))).collect();
    let bytes = (LIVE_BYTES.load(Ordering::Relaxed) - before) / KERNELS;
    drop(kernels);
    bytes
}

/// One test, because the counter is that of the process.
#[test]
fn an_idle_ring_kernel_uses_less_than_four_kibibytes_whatever_its_messages() {
    let runtime = Runtime::new().unwrap();
    // Starts the workers, whose memory is not that of a ring kernel.
    let used = launch::<8>(&runtime, "used");
    assert_eq!(used.ask([7; 8]).unwrap(), 7);

    let small = idle_bytes::<8>(&runtime);
    let large = idle_bytes::<65_536>(&runtime);
    println!("{small} bytes with messages of 8 bytes, {large} with messages of 64 KiB");
    assert!(small < 4096, "{small} bytes with messages of 8 bytes");
    assert!(large < 4096, "{large} bytes with messages of 64 KiB");
}
