"""The module of :class:`FastSPSCQueue` in 0.2, kept for programs that import the queue from here."""

from pydotcompute._core import FastSPSCQueue

__all__ = ["FastSPSCQueue"]
