//! How many threads a launch has, and how they are arranged.

use crate::accelerator::Properties;

/// A grid of blocks of threads. On `cpu` the kernel is called once, and may make of it what it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// Bytes of memory that the threads of a block share, beyond what the kernel itself declares.
    pub shared: u32,
}

impl Geometry {
    /// As many blocks of `threads` as it takes to have one thread for each of `elements`; one block at least.
    ///
    /// ```
    /// use dotcompute_core::orchestrator::Geometry;
    ///
    /// assert_eq!(Geometry::linear(1000, 256).grid, [4, 1, 1]);
    /// ```
    #[must_use]
    pub fn linear(elements: usize, threads: u32) -> Self {
        let blocks = elements.div_ceil(threads.max(1) as usize).max(1);
        // Of those that do not fit into a `u32` no device has that many either: `check` says so.
        Self::new([u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1], [threads, 1, 1])
    }

    /// This grid of these blocks.
    #[must_use]
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, shared: 0 }
    }

    /// With so many bytes of shared memory for each block.
    #[must_use]
    pub const fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Whether the device can run it, or why not.
    pub(super) fn check(self, properties: &Properties) -> Result<(), String> {
        let Properties { max_grid_dims, max_block_dims, max_threads_per_block, max_shared_memory, .. } =
            properties;
        for (what, asked, most) in [("grid", self.grid, max_grid_dims), ("block", self.block, max_block_dims)]
        {
            if asked.contains(&0) || asked.iter().zip(most).any(|(asked, most)| asked > most) {
                return Err(format!(
                    "a {what} of {asked:?}, where each must be 1 at least and {most:?} at most"
                ));
            }
        }
        let threads = self.block.iter().map(|&side| u64::from(side)).fold(1, u64::saturating_mul);
        if threads > u64::from(*max_threads_per_block) {
            return Err(format!("a block of {threads} threads, where {max_threads_per_block} is the most"));
        }
        if self.shared > *max_shared_memory {
            return Err(format!(
                "{} bytes of shared memory, where {max_shared_memory} is the most",
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
    fn what_no_device_has_is_refused_with_what_it_has() {
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
        for (geometry, says) in [
            (Geometry::linear(100, 0), "block of [0, 1, 1]"),
            (Geometry::linear(usize::MAX, 32), "[1073741824, 65535, 65535] at most"),
            (Geometry::new([1, 1, 70_000], [1; 3]), "grid of [1, 1, 70000]"),
            (Geometry::new([1; 3], [1, 1, 65]), "[1024, 1024, 64] at most"),
            (Geometry::new([1; 3], [32, 32, 2]), "block of 2048 threads, where 1024"),
            (Geometry::linear(1, 1).shared(1 << 17), "131072 bytes of shared memory, where 65536"),
        ] {
            let refused = check(geometry).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        assert_eq!(Geometry::new([u32::MAX; 3], [1; 3]).check(&cpu_properties()), Ok(()));
    }
}
