//! Every environment variable that this workspace and its Python package read or set, in one table.
//!
//! `docs/environment.md` is generated from [`VARIABLES`]. A test fails if the page is stale, or if a source reads or sets a variable that
//! has no row here.

use std::fmt::Write as _;

/// Selects the device of a runtime.
pub const DEVICE: &str = "DOTCOMPUTE_DEVICE";
/// Names the folder of the kernel caches.
pub const CACHE: &str = "DOTCOMPUTE_CACHE";
/// The user's cache folder, by the XDG base directory specification.
pub const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
/// Names the NVRTC library.
pub const NVRTC: &str = "DOTCOMPUTE_NVRTC";
/// Names the nvJitLink library.
pub const NVJITLINK: &str = "DOTCOMPUTE_NVJITLINK";
/// Names a CUDA toolkit.
pub const CUDA_HOME: &str = "CUDA_HOME";
/// Names a CUDA toolkit; searched after [`CUDA_HOME`].
pub const CUDA_PATH: &str = "CUDA_PATH";
/// The active Python virtual environment.
pub const VIRTUAL_ENV: &str = "VIRTUAL_ENV";
/// Selects when the CUDA driver loads the code of modules.
pub const CUDA_MODULE_LOADING: &str = "CUDA_MODULE_LOADING";
/// Sets the number of hardware queues of the CUDA driver.
pub const CUDA_DEVICE_MAX_CONNECTIONS: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
/// Makes the CUDA driver's launches block.
pub const CUDA_LAUNCH_BLOCKING: &str = "CUDA_LAUNCH_BLOCKING";
/// Names the library that a tool injects into the CUDA driver.
pub const CUDA_INJECTION64_PATH: &str = "CUDA_INJECTION64_PATH";
/// Names the C++ compiler of the emulated device.
pub const CXX: &str = "CXX";
/// Additional flags for the compiler of the emulated device.
pub const EMULATED_CXXFLAGS: &str = "DOTCOMPUTE_EMULATED_CXXFLAGS";
/// Keeps the output of the compiler of the emulated device.
pub const EMULATED_KEEP: &str = "DOTCOMPUTE_EMULATED_KEEP";
/// Seeds an emulated device under stress.
pub const EMULATED_STRETCH: &str = "DOTCOMPUTE_EMULATED_STRETCH";
/// Disables uvloop.
pub const NO_UVLOOP: &str = "PYDOTCOMPUTE_NO_UVLOOP";
/// Names NVIDIA's wheels for the compiler tests.
pub const TEST_WHEELS: &str = "DOTCOMPUTE_TEST_WHEELS";
/// Limits a test before its watchdog ends the process.
pub const TEST_TIMEOUT_S: &str = "DOTCOMPUTE_TEST_TIMEOUT_S";

/// One environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvironmentVariable {
    /// The name.
    pub name: &'static str,
    /// The values that have an effect, as Markdown.
    pub values: &'static str,
    /// The behaviour without the variable, as Markdown.
    pub default: &'static str,
    /// The effect of the variable, as Markdown.
    pub effect: &'static str,
    /// The crates or packages that read or set the variable.
    pub read_by: &'static str,
}

/// All variables, in the order of the documentation.
pub const VARIABLES: &[EnvironmentVariable] = &[
    EnvironmentVariable {
        name: DEVICE,
        values: "`cuda`, `emulated` or `cpu`",
        default: "the first usable GPU, else no device; `dotcompute-bench gpu` uses `cuda`",
        effect: "Selects the device of a runtime. Any other value is an error.",
        read_by: "dotcompute-cuda, dotcompute-bench",
    },
    EnvironmentVariable {
        name: CACHE,
        values: "a folder",
        default: "`dotcompute` in the user's cache folder",
        effect: "The folder of compiled kernels. The Python package uses its subfolder `python`. An empty value counts as unset.",
        read_by: "dotcompute-cuda, pydotcompute",
    },
    EnvironmentVariable {
        name: XDG_CACHE_HOME,
        values: "an absolute folder",
        default: "`~/.cache`",
        effect: "The user's cache folder, which applies if `DOTCOMPUTE_CACHE` is not set.",
        read_by: "dotcompute-cuda, pydotcompute",
    },
    EnvironmentVariable {
        name: NVRTC,
        values: "a file or a folder",
        default: "toolkits, wheels, then the system's loader",
        effect: "The only location that is searched for NVRTC. An empty value counts as unset.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: NVJITLINK,
        values: "a file or a folder",
        default: "toolkits, wheels, then the system's loader",
        effect: "The only location that is searched for nvJitLink. An empty value counts as unset.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: CUDA_HOME,
        values: "a folder",
        default: "`CUDA_PATH`",
        effect: "A CUDA toolkit: NVRTC and nvJitLink are searched in its `lib64` and `lib`.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: CUDA_PATH,
        values: "a folder",
        default: "no toolkit",
        effect: "Like `CUDA_HOME`, and searched after it.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: VIRTUAL_ENV,
        values: "a folder",
        default: "only the site-packages folders that the program names",
        effect: "A Python virtual environment: NVRTC and nvJitLink are searched in NVIDIA's wheels of its site-packages folders.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: CUDA_MODULE_LOADING,
        values: "`EAGER` or `LAZY`",
        default: "set to `EAGER` before the driver is initialised, in Rust only while the process has one thread",
        effect: "The CUDA driver loads the code of modules at once, or at the first launch of a function. A lazy load waits for the whole \
                 device, so it does not return while a ring kernel is resident. A value that is already set is kept.",
        read_by: "dotcompute-cuda, pydotcompute, the CUDA driver",
    },
    EnvironmentVariable {
        name: CUDA_DEVICE_MAX_CONNECTIONS,
        values: "`1` to `32`",
        default: "set to `32` before the driver is initialised, in Rust only while the process has one thread; the CUDA driver's own default is `8`",
        effect: "The number of hardware queues. Work in a queue that is shared with a ring kernel waits for its end, so each ring kernel takes \
                 a queue of its own, and a launch that finds none is an error. A value that is already set is kept.",
        read_by: "dotcompute-cuda, pydotcompute, the CUDA driver",
    },
    EnvironmentVariable {
        name: CUDA_LAUNCH_BLOCKING,
        values: "`1`",
        default: "launches return at once",
        effect: "The CUDA driver's launches return after the kernel has ended, which helps to find errors. Ring kernels on GPUs are then \
                 resident only while they have messages. The same mode is used if a tool makes launches block.",
        read_by: "dotcompute-cuda, the CUDA driver",
    },
    EnvironmentVariable {
        name: CUDA_INJECTION64_PATH,
        values: "a library",
        default: "no tool is attached",
        effect: "Set by tools for the programs that they start. If the library is that of compute-sanitizer, launches block: see \
                 `CUDA_LAUNCH_BLOCKING`.",
        read_by: "dotcompute-cuda, the CUDA driver",
    },
    EnvironmentVariable {
        name: CXX,
        values: "a command",
        default: "the first of `c++`, `g++` and `clang++` that runs",
        effect: "The C++ compiler of the emulated device.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: EMULATED_CXXFLAGS,
        values: "flags, separated by spaces",
        default: "no additional flags",
        effect: "Additional flags for the compiler of the emulated device, such as `-fsanitize=thread`.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: EMULATED_KEEP,
        values: "an existing folder",
        default: "the output is removed once it is loaded",
        effect: "Keeps the source and the library of each emulated kernel in this folder, for debuggers and sanitizers.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: EMULATED_STRETCH,
        values: "a seed, a number from 0 to 18446744073709551615",
        default: "stores are visible at once, and fences take no longer than they need",
        effect: "Stores of the emulated device become visible up to 100 µs late, and its fences last up to 100 µs longer, at random: what a \
                 GPU may do and an idle host rarely does.",
        read_by: "dotcompute-cuda",
    },
    EnvironmentVariable {
        name: NO_UVLOOP,
        values: "any text that is not empty, such as `1`",
        default: "uvloop is installed on import if it is available and the program has set no event loop policy",
        effect: "Keeps asyncio's own event loop.",
        read_by: "pydotcompute",
    },
    EnvironmentVariable {
        name: TEST_WHEELS,
        values: "a site-packages folder",
        default: "the tests use a compiler that the other variables locate, or skip",
        effect: "The folder with NVIDIA's wheels for the compiler tests, which then fail instead of being skipped. \
                 `cargo xtask test` sets it.",
        read_by: "tests of dotcompute-cuda, dotcompute-cli and dotcompute-bench",
    },
    EnvironmentVariable {
        name: TEST_TIMEOUT_S,
        values: "a number of seconds, or `0` for no limit",
        default: "600",
        effect: "The limit of a test. A test that exceeds it prints the stack of every thread and ends its process with a failure.",
        read_by: "dotcompute-conformance",
    },
];

/// Renders [`VARIABLES`] as a Markdown page.
///
/// ```
/// let page = dotcompute_core::environment::markdown();
/// assert!(page.starts_with("# Environment variables\n") && page.contains("`DOTCOMPUTE_DEVICE`"));
/// ```
pub fn markdown() -> String {
    let mut page = String::from(
        "# Environment variables\n\n\
         <!-- Generated from crates/dotcompute-core/src/environment.rs by `UPDATE=1 cargo test -p dotcompute-core --test it environment`. -->\n\n\
         DotCompute reads these variables. No other variable changes its behaviour, except those of the libraries that it loads.\n\n\
         | Variable | Values | Default | Effect | Read by |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for EnvironmentVariable { name, values, default, effect, read_by } in VARIABLES {
        // Writing to a `String` cannot fail.
        let _ = writeln!(page, "| `{name}` | {values} | {default} | {effect} | {read_by} |");
    }
    page
}
