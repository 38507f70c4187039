//! cuBLAS, if the machine has it: most numerical code ends up calling it.

use std::env;
use std::ffi::{c_int, c_void};
use std::path::PathBuf;

use cudarc::driver::sys::CUstream;
use libloading::Library;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type SetStream = unsafe extern "C" fn(Handle, CUstream) -> c_int;
type Sgemm = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    u64,
    c_int,
    *const f32,
    u64,
    c_int,
) -> c_int;

/// Rows and columns of the matrices.
const SIDE: c_int = 128;

/// cuBLAS, loaded.
pub struct Cublas(Library);

impl Cublas {
    /// Loads it from a toolkit, from the wheels that contain NVRTC, or by the loader's search path.
    pub fn open() -> Option<Self> {
        let folder = |variable: &str, below: &str| Some(PathBuf::from(env::var_os(variable)?).join(below));
        let folders = [
            folder("CUDA_HOME", "lib64"),
            folder("DOTCOMPUTE_NVRTC", ""),
            folder("DOTCOMPUTE_NVRTC", "../../cublas/lib"),
            Some(PathBuf::new()),
        ];
        let names = ["libcublas.so.13", "libcublas.so.12"];
        let paths = folders.into_iter().flatten().flat_map(|folder| names.map(|name| folder.join(name)));
        // SAFETY: the initializers of NVIDIA's library have no preconditions.
        paths.into_iter().find_map(|path| unsafe { Library::new(path) }.ok()).map(Self)
    }

    /// Enqueues the product of two matrices on the device, with a handle of its own, and returns the first status that is not 0.
    pub fn multiply(&self, stream: CUstream, [a, b, c]: [u64; 3]) -> Result<(), c_int> {
        let checked = |status: c_int| if status == 0 { Ok(()) } else { Err(status) };
        let mut handle = std::ptr::null_mut();
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the functions have these types in every version. The addresses are those of three matrices on the device.
        unsafe {
            let create: Create = *self.0.get(b"cublasCreate_v2\0").map_err(|_| -1)?;
            let destroy: Destroy = *self.0.get(b"cublasDestroy_v2\0").map_err(|_| -1)?;
            let set_stream: SetStream = *self.0.get(b"cublasSetStream_v2\0").map_err(|_| -1)?;
            let sgemm: Sgemm = *self.0.get(b"cublasSgemm_v2\0").map_err(|_| -1)?;
            checked(create(&raw mut handle))?;
            checked(set_stream(handle, stream))?;
            let multiplied = sgemm(
                handle,
                0,
                0,
                SIDE,
                SIDE,
                SIDE,
                &raw const one,
                a,
                SIDE,
                b,
                SIDE,
                &raw const zero,
                c,
                SIDE,
            );
            checked(multiplied)?;
            checked(destroy(handle))
        }
    }
}
