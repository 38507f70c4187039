"""The package's own names."""

from pydotcompute.backends import Backend, BackendType, CPUBackend

backend: Backend = CPUBackend()
kind: BackendType = backend.backend_type
