"""Replaces the script of 0.2 that compiled the Cython queue: there is nothing to compile any more.

python setup_cython.py build_ext --inplace
"""

from __future__ import annotations


def main() -> int:
    """Say that there is nothing to compile, and why."""
    print(
        "setup_cython: nothing to compile. FastSPSCQueue is written in Rust now, in the extension that every installation contains: "
        "`pip install -e .` builds it."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
