"""Ring kernels: actors that stay resident on a GPU or a CPU thread and exchange typed messages in microseconds."""

from pydotcompute._core import __version__

__all__ = ["__version__"]
