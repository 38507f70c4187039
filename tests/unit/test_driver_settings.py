"""The driver's settings, on the fake driver (crates/dotcompute-cuda/tests/fake_driver), in processes of their own."""

import subprocess
import sys

import pytest

NAMES = ("CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS")
REPORT = f"print([os.environ.get(name) for name in {NAMES}])"
OTHER_CODE = "driver = ctypes.CDLL('libcuda.so.1'); driver.cuInit(0)"


def report(environment: dict[str, str], before: str, **variables: str) -> str:
    """Returns both variables after an import of pydotcompute that follows `before`."""
    text = f"import ctypes, os\n{before}\nimport pydotcompute\n{REPORT}"
    clean = {name: value for name, value in environment.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", text], env={**clean, **variables}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_requests_what_ring_kernels_need(driver: dict[str, str]) -> None:
    assert report(driver, "") == "['EAGER', '32']"
    assert report(driver, "ctypes.CDLL('libcuda.so.1')") == "['EAGER', '32']", "loaded, but not initialized"


@pytest.mark.parametrize(("name", "value", "expected"), [(NAMES[0], "LAZY", "['LAZY', '32']"), (NAMES[1], "4", "['EAGER', '4']")])
def test_values_of_the_user_are_kept(driver: dict[str, str], name: str, value: str, expected: str) -> None:
    assert report(driver, "", **{name: value}) == expected


def test_nothing_is_set_that_the_driver_would_not_read(driver: dict[str, str]) -> None:
    assert report(driver, OTHER_CODE) == "[None, None]"
