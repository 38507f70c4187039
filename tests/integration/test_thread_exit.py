"""The interpreter exits cleanly while ring kernels run on threads: at the end of a program, on Ctrl-C, and on an exception."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

PROLOGUE = """
import sys, threading, time
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelConfig, ThreadedRingKernel
from pydotcompute.ring_kernels.cython_kernel import CythonKernelConfig, CythonRingKernel
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

def wait(ctx):
    while not ctx.should_terminate:
        ctx.receive(timeout=3600)

def poll(ctx):
    while not ctx.should_terminate:
        ctx.receive(timeout=0.0001)

def spin(ctx):
    while not ctx.should_terminate:
        ctx.input_queue.get_nowait() if hasattr(ctx.input_queue, "get_nowait") else ctx.receive_nowait()

def send(ctx):
    while not ctx.should_terminate:
        ctx.send(0, timeout=3600)

def start_all(daemon=True):
    kernels = []
    for function in (wait, poll, spin, send):
        for use_spsc in (True, False):
            name = f"{function.__name__}{use_spsc}"
            config = ThreadedKernelConfig(name, use_spsc=use_spsc, output_queue_size=4, daemon=daemon)
            kernels.append(ThreadedRingKernel(name, function, config=config))
        kernels.append(CythonRingKernel(name, function, config=CythonKernelConfig(name, output_queue_size=4, daemon=daemon)))
    for kernel in kernels:
        kernel.start()
    return kernels
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    program = PROLOGUE + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize("attempt", range(3))
def test_the_program_exits_with_kernels_running(daemon: bool, attempt: int) -> None:
    ended = run(f"kernels = start_all(daemon={daemon}); print('end')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("daemon", [True, False])
def test_an_exception_in_user_code(daemon: bool) -> None:
    ended = run(f"kernels = start_all(daemon={daemon}); raise LookupError('mine')")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith("LookupError: mine\n")
    assert "Fatal" not in ended.stderr


def test_sys_exit_within_a_kernel_s_block() -> None:
    ended = run("""
        with ThreadedRingKernel("k", wait) as kernel:
            sys.exit(3)
    """)
    assert (ended.returncode, ended.stderr) == (3, "")


@pytest.mark.parametrize(
    "waiting",
    [
        "SPSCQueue().get()",
        "SyncQueue().get(timeout=3600)",
        "full = SPSCQueue(1); full.put(1); full.put(2)",
        "full = SyncQueue(1); full.put(1); full.put(2)",
        "kernels[0].receive()",
        "kernels[2].receive(timeout=3600)",
    ],
)
def test_ctrl_c_ends_a_wait(waiting: str) -> None:
    program = PROLOGUE + f"kernels = start_all(); print('waiting', flush=True); {waiting}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert stderr.endswith("KeyboardInterrupt\n")
    assert "Fatal" not in stderr


def test_an_interrupted_put_loses_nothing() -> None:
    ended = run("""
        import signal
        queue = SPSCQueue(1)
        queue.put("first")
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError()))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            queue.put("second")
        except InterruptedError:
            print(queue.get_nowait(), queue.get_nowait(), queue.put("third"), queue.get())
    """)
    assert (ended.stdout, ended.stderr) == ("first None True third\n", "")
