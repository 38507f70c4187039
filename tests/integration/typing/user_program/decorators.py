"""Names exported by the package."""

from pydotcompute.decorators import gpu_kernel, kernel, ring_kernel, validate_config, validate_message

decorators: list[object] = [gpu_kernel, kernel, ring_kernel, validate_config, validate_message]
