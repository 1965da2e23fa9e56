#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare exact attention of libhyperattn with the other ways to compute it on a CPU.

All run in this one process, on the same inputs and the same number of threads, in turn (ours,
PyTorch, ONNX Runtime, ggml, ours, ...), so that a machine's slow minutes fall on all alike.  Each
takes tensors in the layout that its users hold; conversions stand outside the timed call.  Each
result is compared with ours, and on a sample of rows with float64; a wrong one makes the exit
status 1.  A missing package is reported, and the others are compared.

    peers.py
    peers.py --n 8192 --dims 64,128 --heads 32 --kv-heads 8 --causal --json peers.json
    peers.py --backward

With --backward it is the gradients that are compared, with PyTorch's: backward alone, and forward
and backward together.

Times are medians.  A ratio is the median, over the rounds, of the other's time over ours: above 1
we are faster.  The project's goals stand beside the ratios; a missed one is not an error.  The
processor's peak, for the GFLOP/s column, comes from "hyperattn sweep --peak".
"""

import argparse
import ctypes.util
import itertools
import json
import os
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

# Set before any OpenMP runtime is loaded: idle threads of one peer must not spin while another
# is timed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

import numpy as np

from peers_backward import HyperattnBackward, TorchBackward, compare_backward
from peers_cases import Case, Inputs, prepare_all, relative, time_in_turn
from peers_common import PeersError, Unavailable
from peers_ggml import GgmlFlash, GgmlMatmul
from peers_hyperattn import Hyperattn
from peers_runtimes import OnnxGroupQuery, OnnxMultiHead, Torch

REFERENCE_ROWS = 33
# Relative Frobenius error against float64 at which a result counts as wrong.  Right ones reach
# 3e-6 in f32 and 3e-3 in bf16 at n = 16384.
TOLERANCE = {"f32": 2e-5, "bf16": 1e-2}


def goal_for(peer, case, has_bf16):
    """The least ratio that the project wants to reach against peer, or None."""
    if case.n < 4096:
        return None
    if case.dtype == "bf16":
        return ({"f32": 2.5, "bf16": 1.0}[peer.dtype]) if has_bf16 else None
    if not case.causal:
        return 1.0
    return {"torch": 1.3, "onnxruntime": 1.5, "ggml": 2.5}[peer.name.split()[0]]


def reference(case, inputs, rows):
    """Those rows of every head in float64: [heads, rows, d]."""
    group = case.heads // case.kv_heads
    out = np.empty((case.heads, len(rows), case.d))
    for head in range(case.heads):
        q, k, v = (
            x.astype(np.float64)
            for x in (inputs.q[head, rows], inputs.k[head // group], inputs.v[head // group])
        )
        scores = q @ k.T * case.scale
        if case.causal:
            scores[np.arange(case.n) > rows[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[head] = weights @ v / weights.sum(axis=1, keepdims=True)
    return out


def judge(case, peers, inputs, times, has_bf16):
    """One record per peer, ours first."""
    rows = np.unique(np.linspace(0, case.n - 1, min(case.n, REFERENCE_ROWS)).astype(int))
    exact = reference(case, inputs, rows)
    ours = peers[0].result()
    records = []
    for peer, own in zip(peers, times):
        out, seconds = peer.result(), statistics.median(own)
        ratio = statistics.median(t / t0 for t, t0 in zip(own, times[0]))
        goal = None if peer is peers[0] else goal_for(peer, case, has_bf16)
        error, difference = relative(out[:, rows], exact), relative(out, ours)
        limit = TOLERANCE[peer.dtype]
        records.append({
            "name": peer.name, "path": peer.path, "dtype": peer.dtype,
            "seconds": seconds, "seconds_each": own,
            "gflops": 2 * case.product_flops / seconds / 1e9,
            "ratio": ratio, "goal": goal, "met": None if goal is None else ratio >= goal,
            "max_difference": float(np.abs(out - ours).max()),
            "relative_difference": difference, "relative_error": error,
            # Written so that NaN is wrong.
            "right": error <= limit and difference <= limit + TOLERANCE[peers[0].dtype],
        })
    return records


HEADER = (
    f"  {'':<16} {'path':<10} {'ms':>9} {'GFLOP/s':>8} {'ratio':>6}  {'goal':<11}"
    f" {'max diff':>9} {'rel diff':>9} {'float64':>9}"
)


def print_case(case, records, left_out):
    print(f"{case}\n{HEADER}")
    for r in records:
        met = {None: "", True: "met", False: "MISSED"}[r["met"]]
        goal = f"{r['goal'] or '':<4} {met}"
        print(
            f"  {r['name']:<16} {r['path']:<10} {1e3 * r['seconds']:>9.2f} {r['gflops']:>8.1f}"
            f" {r['ratio']:>6.2f}  {goal:<11} {r['max_difference']:>9.1e}"
            f" {r['relative_difference']:>9.1e} {r['relative_error']:>9.1e}"
            f"{'' if r['right'] else '  WRONG'}"
        )
    for name, reason in left_out.items():
        print(f"  {name:<16} not run: {reason}")
    print(flush=True)


def compare(case, peers, args):
    """Measure and print one case; return its record."""
    inputs = Inputs(case, args.seed)
    ready, left_out = prepare_all(peers, case, inputs)
    try:
        times = time_in_turn([peer.run for peer in ready], args.repeat)
        records = judge(case, ready, inputs, times, peers[0].has_bf16())
    finally:
        for peer in ready:
            peer.close()
    print_case(case, records, left_out)
    return {**asdict(case), "results": records, "not_run": left_out}


def find_library():
    """The library of a build tree, in or around the source tree, else the system's."""
    top = Path(__file__).resolve().parent.parent
    for folder in (Path.cwd(), Path.cwd() / "build", top, top / "build"):
        path = folder / "lib" / ".libs" / "libhyperattn.so"
        if path.exists():
            return path
    name = ctypes.util.find_library("hyperattn")
    if name is None:
        raise PeersError("no libhyperattn.so in lib/.libs or on the system: give --library")
    return name


def find_peers(args):
    """Ours and every peer that can run here."""
    library = args.library or find_library()
    if args.backward:
        kinds = [
            ("hyperattn", lambda: HyperattnBackward(library, args.threads)),
            ("torch f32", lambda: TorchBackward("f32", args.threads)),
            ("torch bf16", lambda: TorchBackward("bf16", args.threads)),
        ]
        return make_peers(kinds)
    kinds = [
        ("hyperattn", lambda: Hyperattn(library, args.threads)),
        ("torch f32", lambda: Torch("f32", args.threads)),
        ("torch bf16", lambda: Torch("bf16", args.threads)),
        ("onnxruntime mha", lambda: OnnxMultiHead(args.threads)),
        ("onnxruntime gqa", lambda: OnnxGroupQuery(args.threads)),
        ("ggml flash", lambda: GgmlFlash(args.threads)),
        ("ggml matmul", lambda: GgmlMatmul(args.threads)),
    ]
    return make_peers(kinds)


def make_peers(kinds):
    """Return the peers, and name -> reason of those that cannot run; print both."""
    peers, missing = [], {}
    for name, make in kinds:
        try:
            peers.append(make())
            print(f"{name:<16} {peers[-1].version()}")
        except Unavailable as error:
            if not peers:
                raise PeersError(str(error)) from None
            missing[name] = str(error)
            print(f"{name:<16} not available: {error}")
    return peers, missing


def cpu_model():
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown CPU"
    return text.partition("model name")[2].partition("\n")[0].strip("\t :") or "unknown CPU"


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def positives(text):
    return [positive(part) for part in text.split(",")]


def available_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Compare exact attention of libhyperattn with PyTorch, ONNX Runtime and ggml; "
        "with --backward, its gradients with PyTorch.",
    )
    parser.add_argument(
        "--backward", action="store_true", help="compare the gradients, with PyTorch's",
    )
    parser.add_argument(
        "--n", type=positives, default=[4096, 16384], metavar="LIST",
        help="sequence lengths (default: 4096,16384)",
    )
    parser.add_argument(
        "--dims", type=positives, metavar="LIST",
        help="head dimensions (default: 64,128; with --backward 64)",
    )
    parser.add_argument(
        "--heads", type=positives, metavar="LIST",
        help="query heads (default: 4, with --backward 1,12; from n = 8192 on 1)",
    )
    parser.add_argument(
        "--kv-heads", type=positive, metavar="N",
        help="key/value heads (default: as many as query heads)",
    )
    parser.add_argument(
        "--causal", action=argparse.BooleanOptionalAction, help="one mask only (default: both)",
    )
    parser.add_argument("--dtype", choices=("f32", "bf16", "both"), default="both")
    parser.add_argument(
        "--threads", type=positive, default=available_cpus(), metavar="N",
        help="of each runtime (default: one per CPU of the affinity mask, here %(default)s)",
    )
    parser.add_argument(
        "--repeat", type=positive, default=7, metavar="N", help="timed rounds (default: 7)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument(
        "--library", type=Path, metavar="PATH",
        help="libhyperattn.so (default: lib/.libs of a build tree, else the system's)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    return parser.parse_args(argv)


def head_counts(args, n):
    if args.heads or n >= 8192:
        return args.heads or [1]
    return [1, 12] if args.backward else [4]


def cases(args):
    dtypes = ("f32", "bf16") if args.dtype == "both" else (args.dtype,)
    masks = (True, False) if args.causal is None else (args.causal,)
    dims = args.dims or ([64] if args.backward else [64, 128])
    for dtype, causal, d, n in itertools.product(dtypes, masks, dims, args.n):
        for heads in head_counts(args, n):
            kv_heads = args.kv_heads or heads
            if heads % kv_heads:
                raise PeersError(f"{heads} heads are no multiple of {kv_heads} kv heads")
            yield Case(n, d, heads, kv_heads, causal, dtype)


def compare_all(args):
    """Return whether every result was right."""
    chosen = list(cases(args))
    print(f"{cpu_model()}, {args.threads} threads, {args.repeat} rounds")
    peers, missing = find_peers(args)
    bf16 = "" if peers[0].has_bf16() else ": bf16 is computed in f32 and has no goal"
    print(f"level {peers[0].path}{bf16}\n", flush=True)
    compare_case = compare_backward if args.backward else compare
    done = [compare_case(case, peers, args) for case in chosen]
    results = [r for case in done for r in case["results"]]
    met = [r["met"] for r in results if r["met"] is not None]
    print(f"goals met: {sum(met)} of {len(met)}")
    if args.json:
        record = {
            "backward": args.backward, "cpu": cpu_model(), "threads": args.threads,
            "repeat": args.repeat, "seed": args.seed,
            "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
            "versions": {peer.name: peer.version() for peer in peers},
            "not_available": missing, "cases": done,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return all(r["right"] for r in results)


def main(argv=None):
    args = parse_arguments(argv)
    try:
        if compare_all(args):
            return 0
        print("peers.py: a result is wrong", file=sys.stderr)
    except (PeersError, OSError) as error:
        print(f"peers.py: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
