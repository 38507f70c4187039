"""Names exported by the package."""

from pydotcompute.backends import Backend, BackendType, CPUBackend

backend: Backend = CPUBackend()
kind: BackendType = backend.backend_type
