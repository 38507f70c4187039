"""Runs test programs on the fake driver (`crates/dotcompute-cuda/tests/fake_driver`), whose device memory is host memory.

Each program runs in its own process, because a process loads only one driver.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).parents[1] / "crates/dotcompute-cuda/tests/fake_driver/libcuda.c"

CUPY = """
import sys
sys.path.insert(0, {folder!r})
import cupy
from pydotcompute.backends.cuda import CUDABackend
from pydotcompute.core.orchestrator import ComputeOrchestrator
from pydotcompute.exceptions import CUDAError
""".format(folder=str(Path(__file__).with_name("fake_driver")))

NO_CUPY = """
import sys
sys.modules["cupy"] = None
"""

HEAD = """
import ctypes, gc
import numpy as np
from pydotcompute.core.accelerator import Accelerator, DeviceType
from pydotcompute.core.memory_pool import configure_memory_pool, get_memory_pool
from pydotcompute.core.unified_buffer import BufferState, UnifiedBuffer
from pydotcompute.exceptions import BufferSyncError

def on_device(array):
    interface = array.__cuda_array_interface__
    size = int(np.prod(interface["shape"])) * np.dtype(interface["typestr"]).itemsize
    memory = (ctypes.c_char * size).from_address(interface["data"][0])
    return np.frombuffer(memory, interface["typestr"]).reshape(interface["shape"])
"""


@functools.cache
def library() -> TemporaryDirectory[str]:
    """Compiles the fake driver once, and returns the folder of `libcuda.so`."""
    folder = TemporaryDirectory()
    compiler = ["cc", "-shared", "-fPIC", "-O1", "-o", f"{folder.name}/libcuda.so", str(SOURCE), "-lpthread", "-ldl"]
    subprocess.run(compiler, check=True)
    Path(folder.name, "libcuda.so.1").symlink_to("libcuda.so")
    return folder


def missing_requirement() -> str | None:
    """Returns why the fake driver cannot be built here, or ``None``."""
    if sys.platform == "linux" and which("cc") is not None and SOURCE.exists():
        return None
    return "the fake driver needs Linux, a C compiler and a checkout of the repository"


def run(driver: dict[str, str], text: str, *, cupy: bool = False, **environment: str) -> str:
    """Runs HEAD and `text` in a new process. Returns its standard error, which is the fake driver's log of calls."""
    command = [sys.executable, "-W", "error", "-c", (CUPY if cupy else NO_CUPY) + HEAD + textwrap.dedent(text)]
    done = subprocess.run(command, env={**driver, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr
