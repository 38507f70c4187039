//! Resource usage of device functions, parsed from the assembler's output under `-Xptxas=-v`.

/// The resource usage of one function.
///
/// ```text
/// ptxas info    : Function properties for k
/// ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
/// ptxas info    : Used 10 registers, used 1 barriers, 128 bytes smem
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    /// The name of the function.
    pub function: String,
    /// Registers per thread. `None` for a function that kernels call: it uses the registers of its caller.
    pub registers: Option<u32>,
    /// Bytes of stack per thread.
    pub stack: u32,
    /// Bytes of register spills stored per thread.
    pub spill_stores: u32,
    /// Bytes of register spills loaded per thread.
    pub spill_loads: u32,
    /// Bytes of static shared memory per block. Dynamic shared memory is not included.
    pub shared: u32,
}

/// Parses the resource usage of all functions in a log.
pub(super) fn parse(log: &str) -> Vec<ResourceUsage> {
    let mut found: Vec<ResourceUsage> = Vec::new();
    for line in log.lines().filter(|line| line.starts_with("ptxas ")) {
        if let Some((_, function)) = line.split_once("Function properties for ") {
            found.push(ResourceUsage { function: function.trim().to_owned(), ..ResourceUsage::default() });
        }
        let Some(resource_usage) = found.last_mut() else { continue };
        let number = |unit: &str| number_before(line, unit);
        if line.contains("bytes stack frame") {
            resource_usage.stack = number(" bytes stack frame").unwrap_or(0);
            resource_usage.spill_stores = number(" bytes spill stores").unwrap_or(0);
            resource_usage.spill_loads = number(" bytes spill loads").unwrap_or(0);
        } else if line.contains(": Used ") {
            resource_usage.registers = number(" registers");
            resource_usage.shared = number(" bytes smem").unwrap_or(0);
        }
    }
    found
}

/// Returns the number before `unit` in a line.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_report_is_read() {
        let log = "\
a.cu(3): warning #177-D: variable \"unused\" was declared but never referenced
ptxas info    : 4000 bytes gmem
ptxas info    : Function properties for handle
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Compile time = 1.403 ms
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 128 bytes smem, 400 bytes cmem[0]
";
        let handle = ResourceUsage {
            function: "handle".into(),
            stack: 8,
            spill_stores: 4,
            spill_loads: 12,
            ..ResourceUsage::default()
        };
        let kernel = ResourceUsage {
            function: "k".into(),
            registers: Some(10),
            shared: 128,
            ..ResourceUsage::default()
        };
        assert_eq!(parse(log), [handle, kernel]);
        assert_eq!(parse(""), []);
    }
}
