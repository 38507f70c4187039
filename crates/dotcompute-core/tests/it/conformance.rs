//! The conformance tests for what this crate brings: the CPU backend, the memory of the CPU device, and device programs on a loopback
//! device.

mod cpu {
    dotcompute_conformance::backend_tests!(dotcompute_conformance::cpu::Cpu);
}

mod loopback {
    dotcompute_conformance::device_backend_tests!(dotcompute_conformance::loopback::LoopbackDevice);
}

mod cpu_memory {
    dotcompute_conformance::device_memory_tests!(dotcompute_conformance::memory::TestCpuMemory);
}
