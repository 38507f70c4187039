"""Test double of CuPy: the part that pydotcompute uses, on the fake driver. Device memory is host memory, and arrays are NumPy arrays.

``calls`` records the calls in order, with stream and pool, for tests to compare. It does not show how the real CuPy behaves.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

calls = []
_current = SimpleNamespace(stream=None, allocator=None, device=0)


class ndarray(np.ndarray):
    """An array in the memory of `memptr`, whose owner it keeps alive."""

    def __new__(cls, shape, dtype, memptr):
        memory = (ctypes.c_char * max(memptr.mem.size, 1)).from_address(memptr.mem.ptr)
        array = np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape).view(cls)
        array.owner = memptr.mem.owner
        return array

    def __array_finalize__(self, other):
        self.owner = getattr(other, "owner", None)

    @property
    def __cuda_array_interface__(self):
        return {**self.__array_interface__, "version": 3, "stream": None}


def _record_creation(array):
    calls.append(("create", _current.stream, _current.allocator))
    return array.view(_CreatedArray)


class _CreatedArray(np.ndarray):
    pass


def empty(shape, dtype):
    if np.prod(shape) > 1 << 40:
        raise cuda.memory.OutOfMemoryError("out of memory")
    return _record_creation(np.empty(shape, dtype))


def zeros(shape, dtype):
    return _record_creation(np.zeros(shape, dtype))


def array(source):
    return _record_creation(np.array(source))


def from_dlpack(source):
    return np.asarray(source)


def asnumpy(source, stream=None):
    calls.append(("asnumpy", stream))
    return np.array(source).view(np.ndarray)


class RawKernel:
    def __init__(self, run):
        self._run = run

    def __call__(self, grid, block, args, **kwargs):
        calls.append(("raw", grid, block, _current.stream))
        self._run(*args, **kwargs)


class _SetWithin:
    """Sets an attribute of the current state within a `with` block."""

    def __init__(self, name, value):
        self._name, self._value = name, value

    def __enter__(self):
        self._before = getattr(_current, self._name)
        setattr(_current, self._name, self._value)
        return self

    def __exit__(self, *_):
        setattr(_current, self._name, self._before)


class _Stream(_SetWithin):
    ptr = 1

    def __init__(self, null=False, non_blocking=False):
        assert non_blocking or null, "streams must not synchronize with the legacy default stream"
        super().__init__("stream", self)
        self.done = True
        self.fails = None

    def synchronize(self):
        calls.append(("synchronize", self))
        if self.fails:
            raise self.fails
        self.done = True


class _Device(_SetWithin):
    def __init__(self, number):
        super().__init__("device", number)

    def use(self):
        _current.device = self._value


class _Pool:
    def malloc(self, size):
        calls.append(("malloc", size))

    def used_bytes(self):
        return 100

    def total_bytes(self):
        return 300

    def free_all_blocks(self):
        calls.append(("free_all_blocks",))


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


_null = _Stream(null=True)
_current.stream = _null
_default_pool = _Pool()


def get_default_memory_pool():
    return _default_pool


def _set_allocator(allocator):
    _current.allocator = allocator


cuda = SimpleNamespace(
    Device=_Device,
    MemoryAsyncPool=_Pool,
    MemoryPointer=lambda mem, offset: SimpleNamespace(mem=mem, offset=offset),
    Stream=_Stream,
    UnownedMemory=lambda ptr, size, owner, device_id: SimpleNamespace(ptr=ptr, size=size, owner=owner, device_id=device_id),
    get_current_stream=lambda: _current.stream,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        cudaMemPoolAttrReleaseThreshold=4,
        deviceGetMemPool=lambda device: device + 50,
        getDeviceCount=lambda: 2,
        memPoolSetAttribute=lambda pool, attribute, value: calls.append(("set_attribute", pool, attribute, value)),
    ),
    set_allocator=_set_allocator,
    using_allocator=lambda allocator: _SetWithin("allocator", allocator),
)
