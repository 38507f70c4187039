"""Programs that get SIGTERM or Ctrl-C: each message that was sent is handled, or reported as not handled."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shutdown.py"
LIMIT_S = 60

WITHOUT_HANDLERS = """
import asyncio
from pydotcompute import RingKernelRuntime

stored = []

async def store(ctx):
    async for number in ctx:
        await asyncio.sleep(0.001)
        stored.append(number)

async def main():
    async with RingKernelRuntime() as runtime:
        await runtime.launch("store", store)
        await runtime.activate("store")
        for number in range(100):
            await runtime.send("store", number)
        print("ready", flush=True)
        await asyncio.Event().wait()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stored all:", stored == list(range(100)))
"""


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a Python program, and ends it with the block at the latest."""
    command = [sys.executable, "-W", "error", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(line: str, process: subprocess.Popen[str]) -> None:
    """Waits until a program has printed a line."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def output_after(number: signal.Signals, process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Sends a signal to a program. Returns its exit status, its output and its errors."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, output, errors


def counts(output: str) -> dict[str, int]:
    """Returns the counts that the example prints."""
    return {name: int(count) for count, name in re.findall(r"(\d+) (sent|stored|not stored)\b", output)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_after_all_that_was_sent_is_handled(number: signal.Signals) -> None:
    with program(str(EXAMPLE), "--interval", "0.0001", "--write", "0.001", "--timeout", str(LIMIT_S)) as process:
        wait_for("ready", process)
        status, output, errors = output_after(number, process)
    assert (status, errors) == (0, "")
    assert counts(output)["sent"] == counts(output)["stored"] >= 1
    assert counts(output)["not stored"] == 0
    assert f"the last reading stored is number {counts(output)['sent'] - 1}\n" in output


def test_what_is_not_handled_in_time_is_reported() -> None:
    with program(str(EXAMPLE), "--write", str(2 * LIMIT_S), "--timeout", "0.1", "--seconds", "0.1") as process:
        output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert counts(output)["sent"] == counts(output)["not stored"] >= 1
    assert counts(output)["stored"] == 0
    assert "the first that was not stored is Reading(number=0): unhandled" in errors


def test_a_second_signal_ends_the_program_at_once() -> None:
    with program(str(EXAMPLE), "--write", str(2 * LIMIT_S), "--timeout", str(2 * LIMIT_S)) as process:
        wait_for("ready", process)
        process.send_signal(signal.SIGTERM)
        wait_for("stopping", process)
        status, output, _ = output_after(signal.SIGTERM, process)
    assert (status, output) == (-signal.SIGTERM, "")


def test_ctrl_c_without_a_handler_leaves_the_runtime_which_handles_what_is_queued() -> None:
    with program("-c", WITHOUT_HANDLERS) as process:
        wait_for("ready", process)
        status, output, errors = output_after(signal.SIGINT, process)
    assert (status, output, errors) == (0, "stored all: True\n", "")
