"""The package's own names."""

from pydotcompute.compilation import KernelCache, KernelCompiler

parts: tuple[KernelCache, KernelCompiler] = (KernelCache("/tmp/kernels"), KernelCompiler())
