"""Names exported by the package."""

from pydotcompute.compilation import KernelCache, KernelCompiler

parts: tuple[KernelCache, KernelCompiler] = (KernelCache("/tmp/kernels"), KernelCompiler())
