"""Names exported by the package."""

from pydotcompute.core import Accelerator, BufferState, ComputeOrchestrator, MemoryPool, UnifiedBuffer

accelerator: Accelerator = Accelerator()
state: BufferState = UnifiedBuffer(4).state
pool: MemoryPool = MemoryPool()
orchestrator: ComputeOrchestrator = ComputeOrchestrator()
