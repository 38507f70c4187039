"""The package's own names."""

from pydotcompute.core import Accelerator, BufferState, ComputeOrchestrator, MemoryPool, UnifiedBuffer

accelerator: Accelerator = Accelerator()
state: BufferState = UnifiedBuffer(4).state
pool: MemoryPool = MemoryPool()
orchestrator: ComputeOrchestrator = ComputeOrchestrator()
