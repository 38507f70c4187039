//! Launch geometry: the grid, the blocks and the shared memory of a launch.

use crate::accelerator::Properties;

/// A grid of blocks of threads. On `cpu` the kernel is called once, and may interpret the geometry as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory per block, in addition to what the kernel declares.
    pub shared: u32,
}

impl Geometry {
    /// Returns a one-dimensional geometry with at least one thread per element: blocks of `threads` threads, and at least one block.
    ///
    /// ```
    /// use dotcompute_core::orchestrator::Geometry;
    ///
    /// assert_eq!(Geometry::linear(1000, 256).grid, [4, 1, 1]);
    /// ```
    #[must_use]
    pub fn linear(elements: usize, threads: u32) -> Self {
        let blocks = elements.div_ceil(threads.max(1) as usize).max(1);
        // No device supports as many blocks as exceed a `u32`; `check` rejects the saturated value.
        Self::new([u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], [threads, 1, 1])
    }

    /// Returns a geometry without dynamic shared memory.
    #[must_use]
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, shared: 0 }
    }

    /// Sets the dynamic shared memory per block, in bytes.
    #[must_use]
    pub const fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Checks the geometry against the limits of a device. The error names the value and the limit.
    pub(super) fn check(self, properties: &Properties) -> Result<(), String> {
        let Properties { max_grid_dims, max_block_dims, max_threads_per_block, max_shared_memory, .. } =
            properties;
        for (what, requested, max) in
            [("grid", self.grid, max_grid_dims), ("block", self.block, max_block_dims)]
        {
            if requested.contains(&0) || requested.iter().zip(max).any(|(requested, max)| requested > max) {
                return Err(format!(
                    "a {what} of {requested:?}: each dimension must be at least 1 and at most {max:?}"
                ));
            }
        }
        let threads = self.block.iter().map(|&side| u64::from(side)).fold(1, u64::saturating_mul);
        if threads > u64::from(*max_threads_per_block) {
            return Err(format!("a block of {threads} threads: the maximum is {max_threads_per_block}"));
        }
        if self.shared > *max_shared_memory {
            return Err(format!(
                "{} bytes of shared memory: the maximum is {max_shared_memory}",
                self.shared
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::cpu_properties;

    #[test]
    fn a_geometry_beyond_a_limit_is_rejected_with_the_limit() {
        let gpu = Properties {
            max_threads_per_block: 1024,
            max_block_dims: [1024, 1024, 64],
            max_grid_dims: [1 << 30, 65535, 65535],
            max_shared_memory: 1 << 16,
            ..cpu_properties()
        };
        let check = |geometry: Geometry| geometry.check(&gpu);
        assert_eq!(check(Geometry::linear(0, 32)), Ok(()));
        assert_eq!(check(Geometry::new([1, 65535, 1], [16, 16, 4]).shared(1 << 16)), Ok(()));
        for (geometry, expected) in [
            (Geometry::linear(100, 0), "block of [0, 1, 1]"),
            (Geometry::linear(usize::MAX, 32), "at most [1073741824, 65535, 65535]"),
            (Geometry::new([1, 1, 70_000], [1; 3]), "grid of [1, 1, 70000]"),
            (Geometry::new([1; 3], [1, 1, 65]), "at most [1024, 1024, 64]"),
            (Geometry::new([1; 3], [32, 32, 2]), "block of 2048 threads: the maximum is 1024"),
            (Geometry::linear(1, 1).shared(1 << 17), "131072 bytes of shared memory: the maximum is 65536"),
        ] {
            let error = check(geometry).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(Geometry::new([u32::MAX; 3], [1; 3]).check(&cpu_properties()), Ok(()));
    }
}
