# SPDX-License-Identifier: Apache-2.0
"""Objects that have nothing but DLPack."""

import ctypes
import gc
import weakref

import numpy as np
import pytest

import hyperattn
from hyperattn import _dlpack, _tensors
from reference import inputs, to_bf16


class Foreign:
    """An object of another framework: an array behind __dlpack__ and __dlpack_device__."""

    def __init__(self, array, device=(1, 0)):
        self._array, self._device = array, device

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return self._device


_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Versioned:
    """An object whose capsule is made by hand, so that every field of it can be chosen."""

    def __init__(self, array, code=2, bits=32, lanes=1, flags=0, major=1, device=1, offset=0,
                 strides=True):
        ints = ctypes.c_int64 * array.ndim
        self._array = array
        self._shape, self._strides = ints(*array.shape), ints(*(s // array.itemsize
                                                               for s in array.strides))
        pointer = ctypes.POINTER(ctypes.c_int64)
        tensor = _dlpack._DLTensor(array.ctypes.data - offset, device, 0, array.ndim, code, bits,
                                   lanes, ctypes.cast(self._shape, pointer),
                                   ctypes.cast(self._strides, pointer) if strides else None, offset)
        self._managed = _dlpack._Versioned(major, 0, None, None, flags, tensor)

    def __dlpack__(self, *, max_version=None):
        assert max_version == (1, 0)
        return _new(ctypes.addressof(self._managed), b"dltensor_versioned", None)

    def __dlpack_device__(self):
        return (1, 0)


def test_numpy_arrays_by_their_dlpack():
    q, k, v = inputs(2, 4, 2, 30, 50, 8)
    views = [Foreign(q.swapaxes(1, 2).copy().swapaxes(1, 2)), Foreign(k), Foreign(v)]
    out, lse = hyperattn.attention(*views, return_lse=True)
    expected, expected_lse = hyperattn.attention(q, k, v, return_lse=True)
    assert type(out) is np.ndarray
    assert np.array_equal(out, expected) and np.array_equal(lse, expected_lse)


def test_an_out_that_is_foreign_is_written_in_place():
    q, k, v = inputs(1, 2, 2, 30, 50, 8)
    array = np.zeros_like(q)
    out = Foreign(array)
    assert hyperattn.attention(q, k, v, out=out) is out
    assert np.array_equal(array, hyperattn.attention(q, k, v))


def test_nothing_is_copied_and_the_owner_lives():
    array = np.ones((1, 2, 3, 4), np.float32)
    seen = weakref.ref(array)
    tensor = _tensors.view("x", Foreign(array))
    assert tensor.pointer == array.ctypes.data
    del array
    gc.collect()
    assert seen() is not None
    del tensor
    gc.collect()
    assert seen() is None


def test_versioned_capsules():
    q, k, v = inputs(1, 2, 2, 30, 50, 8)
    expected = hyperattn.attention(q, k, v)
    out = np.zeros_like(q)
    hyperattn.attention(Versioned(q), Versioned(k, offset=64), Versioned(v, strides=False),
                        out=Versioned(out))
    assert np.array_equal(out, expected)


def test_bf16():
    bits = [to_bf16(x) for x in inputs(1, 2, 2, 30, 50, 8)]
    out = hyperattn.attention(*(Versioned(x, code=4, bits=16) for x in bits))
    assert out.dtype == np.uint16
    expected = hyperattn.attention(*bits, dtype="bf16")
    assert np.array_equal(out, expected)
    named = hyperattn.attention(*(Versioned(x, code=1, bits=16) for x in bits), dtype="bf16")
    assert np.array_equal(named, expected)


@pytest.mark.parametrize("flags, name", [(1, "read-only"), (2, "a copy")])
def test_outputs_that_writing_does_not_reach(flags, name):
    q, k, v = inputs(1, 2, 2, 30, 50, 8)
    expected = hyperattn.attention(q, k, v)
    assert np.array_equal(hyperattn.attention(Versioned(q, flags=flags), k, v), expected)
    with pytest.raises(hyperattn.InvalidArgument, match="out is read-only"):
        hyperattn.attention(q, k, v, out=Versioned(np.zeros_like(q), flags=flags))


@pytest.mark.parametrize("fields, text", [
    ({"bits": 64}, r"q has dtype \(code 2, 64 bits\)"),
    ({"lanes": 4}, "q has elements of 4 lanes"),
    ({"major": 2}, "q speaks DLPack 2.0"),
    ({"device": 2}, r"q is on DLPack device \(2, 0\)"),
])
def test_what_cannot_be_read(fields, text):
    q, k, v = inputs(1, 2, 2, 30, 50, 8)
    with pytest.raises(hyperattn.InvalidArgument, match=text):
        hyperattn.attention(Versioned(q, **fields), k, v)


def test_objects_that_are_on_a_device():
    q, k, v = inputs(1, 2, 2, 30, 50, 8)
    with pytest.raises(hyperattn.InvalidArgument, match=r"k is on DLPack device \(2, 1\)"):
        hyperattn.attention(q, Foreign(k, device=(2, 1)), v)


def test_a_capsule_that_is_none():
    class Wrong(Foreign):
        def __dlpack__(self):
            return "no capsule"

    with pytest.raises(TypeError, match="q.__dlpack__.. returned 'no capsule'"):
        hyperattn.attention(Wrong(None), Wrong(None), Wrong(None))
