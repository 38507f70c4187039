//! GPU architectures.

use std::fmt;

/// The compute capability of a device, or the one that a cubin is compiled for.
///
/// ```
/// use dotcompute_cuda::Architecture;
///
/// let h200 = Architecture { major: 9, minor: 0 };
/// assert_eq!(h200.to_string(), "sm_90");
/// assert_eq!(h200.virtual_name(), "compute_90");
/// assert!(Architecture { major: 10, minor: 0 } > h200);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// The generation: 8 is Ampere, 9 is Hopper, 10 is Blackwell.
    pub major: u32,
    /// The member of the generation.
    pub minor: u32,
}

impl Architecture {
    /// Returns the name of the virtual architecture (`compute_XY`) with the same number, as the compiler's front end names it.
    pub fn virtual_name(self) -> String {
        format!("compute_{}{}", self.major, self.minor)
    }

    /// Returns how many grids a device of this compute capability runs at once: the "maximum number of resident grids per device
    /// (concurrent kernel execution)" in the table of technical specifications of the CUDA C++ Programming Guide (its section on compute
    /// capabilities; version 12.9 for 5.0 to 7.2, version 13 for 7.5 to 12.x, where the table has one number for all).
    ///
    /// ```
    /// use dotcompute_cuda::Architecture;
    ///
    /// assert_eq!(Architecture { major: 9, minor: 0 }.resident_grids(), 128);
    /// assert_eq!(Architecture { major: 7, minor: 2 }.resident_grids(), 16);
    /// ```
    pub fn resident_grids(self) -> u32 {
        match (self.major, self.minor) {
            (5, 3) | (6, 2) | (7, 2) => 16,
            (0..=5, _) | (6, 1) => 32,
            _ => 128,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}
