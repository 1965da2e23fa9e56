# SPDX-License-Identifier: Apache-2.0
"""Plans: a validated problem with its params, and the calls on tensors.

The library gets pointers alone, and reads and writes where the problem says. So every tensor is
compared with the problem here, in shape, strides, dtype and device, before its pointer is passed.
"""

from __future__ import annotations

import ctypes
from typing import Any, List, Optional, Tuple

import numpy as np

from . import _abi, _fields, _layout, _library, _tensors
from ._tensors import Tensor
from .context import Context, Handle, default_context
from .errors import InvalidArgument, OutOfMemory
from .settings import Choice, Params, Problem, Report, results


class Plan:
    """What is to be computed and how, checked once: hyperattn_plan_create(3).

    Immutable; several threads may use one at a time. params None: the defaults. context None: the
    process's default. Raises the library's errors.

    Tensors have the problem's shapes; with batch 1, and always in a ragged batch, they may be or
    are [heads, rows, dim]. Results that are not given are made: of q's kind (NumPy, PyTorch),
    with the problem's strides. workspace is an array of bytes as empty_workspace makes it, for one
    call at a time; None: the library takes and frees its own.
    """

    def __init__(self, problem: Problem, params: Optional[Params] = None,
                 context: Optional[Context] = None) -> None:
        library = _library.get()
        self.context = default_context() if context is None else context
        self.problem = problem
        self.params = Params() if params is None else params
        c_problem, c_params = self.problem.to_struct(), self.params.to_struct()
        if self.params.block_mask is not None:
            self.params.block_mask.check_rows(c_problem.nheads, c_problem.seqlen_q)
        needs = self.context.handle()
        pointer = ctypes.c_void_p()
        library.check(library.plan_create(ctypes.byref(pointer), needs.pointer,
                                          ctypes.byref(c_problem), ctypes.byref(c_params)))
        self._handle = Handle(pointer.value or 0, library.plan_destroy, needs)
        self._library = library
        self._layouts = _layout.of_problem(c_problem)
        self._heads = c_problem.batch * c_problem.nheads

    @property
    def method(self) -> str:
        """What the method became: with target_error that of the params, each head choosing."""
        return _abi.Method(self._library.plan_method(self._handle.pointer)).name.lower()

    @property
    def steps(self) -> int:
        """Steps of the ladder that each head's choice is made from."""
        return self._library.plan_steps(self._handle.pointer)

    def step(self, step: int) -> Params:
        """Return the params of a step, from 0 on: a plan with them computes what a head gets."""
        struct = self._library.init(_abi.Params, "params_init")
        number = _fields.integer("step", step, -2**31, 2**31 - 1)
        self._library.check(self._library.plan_step(self._handle.pointer, number,
                                                    ctypes.byref(struct)))
        return Params.from_struct(struct, self.params.block_mask)

    def workspace(self, backward: bool = False) -> int:
        """Return the bytes of workspace that a forward or backward call needs."""
        return self._library.plan_workspace(self._handle.pointer, int(bool(backward)))

    def forward(self, q: Any, k: Any, v: Any, *, out: Any = None, lse: Any = None,
                return_lse: bool = False, workspace: Optional[np.ndarray] = None) -> Any:
        """Return out, or (out, lse) if return_lse or an lse is given: hyperattn_forward(3).

        lse [batch, nheads, seqlen_q] is packed float32: the log of the softmax denominator.
        """
        call = _Call(self)
        pointers, out, lse = self._forward(call, q, k, v, out, lse, return_lse, workspace)
        self._library.check(self._library.forward(self._handle.pointer, *pointers))
        return out if lse is None else (out, lse)

    def forward_report(self, q: Any, k: Any, v: Any, *, out: Any = None, lse: Any = None,
                       return_lse: bool = False, workspace: Optional[np.ndarray] = None) -> Any:
        """Return (out, choices), or (out, lse, choices): the same, and what each head got.

        choices has batch * nheads entries, head by head in each sequence.
        """
        call = _Call(self)
        pointers, out, lse = self._forward(call, q, k, v, out, lse, return_lse, workspace)
        choices = self._structs(_abi.Choice, "choice_init")
        self._library.check(self._library.forward_report(self._handle.pointer, *pointers, choices))
        chosen: List[Choice] = results(Choice, choices)
        return (out, chosen) if lse is None else (out, lse, chosen)

    def backward(self, q: Any, k: Any, v: Any, out: Any, lse: Any, dout: Any, *, dq: Any = None,
                 dk: Any = None, dv: Any = None,
                 workspace: Optional[np.ndarray] = None) -> Tuple[Any, Any, Any]:
        """Return (dq, dk, dv) from dout, the gradient of a loss in out: hyperattn_backward(3).

        out and lse are what forward gave, or merge. Gradients have the strides of q, k and v.
        """
        call = _Call(self)
        inputs = [call.tensor("q", q), call.tensor("k", k), call.tensor("v", v),
                  call.tensor("out", out), call.lse("lse", lse), call.tensor("dout", dout)]
        written = [call.result(name, given, like)
                   for name, given, like in (("dq", dq, "q"), ("dk", dk, "k"), ("dv", dv, "v"))]
        self._library.check(self._library.backward(
            self._handle.pointer, *(t.pointer for t in inputs + written),
            self._workspace(workspace, backward=True)))
        return tuple(t.owner for t in written)

    def merge(self, out: Any, lse: Any, out2: Any, lse2: Any) -> Tuple[Any, Any]:
        """Fold (out2, lse2), of other keys, into out and lse, and return these.

        See hyperattn_merge(3). A plan with out's shape and strides will do, whatever its keys.
        """
        call = _Call(self)
        tensors = [call.written("out", out), call.lse("lse", lse, written=True),
                   call.tensor("out2", out2), call.lse("lse2", lse2)]
        self._library.check(self._library.merge(self._handle.pointer,
                                                *(t.pointer for t in tensors)))
        return out, lse

    def measure(self, q: Any, k: Any, v: Any, out: Any,
                rows: int = 128) -> Tuple[Report, List[Report]]:
        """Return (total, per_head): how far out is from exact attention, by this many rows.

        out may be any method's; per_head has batch * nheads entries: hyperattn_measure(3).
        """
        call = _Call(self)
        tensors = [call.tensor("q", q), call.tensor("k", k), call.tensor("v", v),
                   call.tensor("out", out)]
        total = self._library.init(_abi.Report, "report_init")
        per_head = self._structs(_abi.Report, "report_init")
        self._library.check(self._library.measure(
            self._handle.pointer, *(t.pointer for t in tensors),
            _fields.integer("rows", rows, -2**63), ctypes.byref(total), per_head))
        return results(Report, [total])[0], results(Report, per_head)

    def _forward(self, call: "_Call", q: Any, k: Any, v: Any, out: Any, lse: Any, return_lse: bool,
                 workspace: Optional[np.ndarray]) -> Tuple[List[Any], Any, Any]:
        """Return the pointers from q to workspace, out and lse (None: not wanted)."""
        tensors = [call.tensor("q", q), call.tensor("k", k), call.tensor("v", v),
                   call.result("out", out, "out")]
        pointers: List[Optional[int]] = [t.pointer for t in tensors]
        if return_lse or lse is not None:
            log_sums = call.new_lse() if lse is None else call.lse("lse", lse, written=True)
            lse = log_sums.owner
            pointers.append(log_sums.pointer)
        else:
            pointers.append(None)
        return [*pointers, self._workspace(workspace, backward=False)], tensors[3].owner, lse

    def _workspace(self, workspace: Optional[np.ndarray], backward: bool) -> Optional[int]:
        """Return the address of a workspace, which the library cannot know the size of."""
        if workspace is None:
            return None
        if not isinstance(workspace, np.ndarray) or workspace.dtype != np.uint8:
            raise TypeError("workspace must be a NumPy array of uint8")
        need = self.workspace(backward)
        if workspace.nbytes < need:
            raise InvalidArgument(f"workspace has {workspace.nbytes} bytes, must have {need}")
        if not (workspace.flags.c_contiguous and workspace.flags.writeable):
            raise InvalidArgument("workspace is read-only or has gaps")
        return workspace.ctypes.data

    def _structs(self, kind: Any, init: str) -> Any:
        """Return an entry for each head, the first of which is initialised."""
        structs = (kind * self._heads)()
        structs[0] = self._library.init(kind, init)
        return structs


class _Call:
    """The tensors of one call, which must be of one dtype, on one device, and of the plan's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._first: Optional[Tensor] = None

    def tensor(self, name: str, value: Any, like: Optional[str] = None) -> Tensor:
        """Return an argument that has the layout of q, k, v or out."""
        layouts = self._plan._layouts
        layout = layouts[like or (name if name in layouts else "out")]
        tensor = _tensors.view(name, value, self._plan.problem.dtype)
        layout.check(tensor)
        return self._placed(tensor)

    def written(self, name: str, value: Any, like: Optional[str] = None) -> Tensor:
        """Return an argument that the call writes to."""
        tensor = self.tensor(name, value, like)
        if not tensor.writable:
            raise tensor.refuse("is read-only, and is written to")
        return tensor

    def result(self, name: str, value: Any, like: str) -> Tensor:
        """Return an argument that is written to, made where none is given."""
        if value is not None:
            return self.written(name, value, like)
        layout = self._plan._layouts[like]
        first = self._like()
        ndim = len(first.shape)
        strides = None if layout.packed else layout.strides_of(ndim)
        made = _tensors.empty(first, layout.shape_of(ndim), strides)
        return _tensors.view(name, made, self._plan.problem.dtype)

    def lse(self, name: str, value: Any, written: bool = False) -> Tensor:
        """Return an argument that is an lse."""
        tensor = _tensors.view(name, value, "f32")
        self._plan._layouts["lse"].check(tensor)
        if written and not tensor.writable:
            raise tensor.refuse("is read-only, and is written to")
        return self._placed(tensor)

    def new_lse(self) -> Tensor:
        """Return an lse to write to."""
        first = self._like()
        shape = self._plan._layouts["lse"].shape_of(len(first.shape) - 1)
        return _tensors.view("lse", _tensors.empty(first, shape, lse=True), "f32")

    def _like(self) -> Tensor:
        """Return the first tensor of the call, whose kind and device what is made gets."""
        assert self._first is not None
        return self._first

    def _placed(self, tensor: Tensor) -> Tensor:
        if self._first is None:
            self._first = tensor
            if not self._plan.context.reads(tensor.device):
                raise tensor.refuse(f"is on {tensor.device[0]}:{tensor.device[1]}, the context's "
                                    f"backend is {self._plan.context.backend}")
        elif tensor.device != self._first.device:
            raise tensor.refuse(f"is on {tensor.device[0]}:{tensor.device[1]}, {self._first.name} "
                                f"on {self._first.device[0]}:{self._first.device[1]}")
        return tensor


def empty_workspace(size: int) -> np.ndarray:
    """Return `size` bytes, aligned to 64, for one call at a time. Their contents mean nothing."""
    size = _fields.integer("size", size)
    try:
        whole = np.empty(size + 64, np.uint8)
    except (MemoryError, ValueError):
        raise OutOfMemory(f"size is {size}: there are not so many bytes") from None
    first = -whole.ctypes.data % 64
    return whole[first:first + size]
