"""The pace of the machine at a moment, and whether it moved: shared hosts change their speed by up to 2x."""

import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("BENCH_KERNELS", str(ROOT / "build" / "bench_kernels"))


def require():
    if not os.access(PROGRAM, os.X_OK):
        raise SystemExit(f"error: {PROGRAM} is missing, it measures the pace of the machine: ninja -C build bench_kernels (or set BENCH_KERNELS)")


def now(threads):
    """FLOP/s of loops in registers: {"bf16": …, "fp32": …}, and bytes/s read. bf16 is 0 where the processor has none."""
    done = subprocess.run([PROGRAM, "peak"], check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    p = json.loads(done.stdout)
    return {"bf16": p["bf16_gflops"] * 1e9, "fp32": p["fp32_gflops"] * 1e9, "read": p["read_gbs"] * 1e9}


def peak(pace, precision):
    """What the matrix work of a precision can reach: without bf16 in hardware, fp32."""
    return pace[precision] or pace["fp32"]


def moved(paces):
    """By how much the paces differ at most: 0.05 is 5 %. fp32 tells, every machine has it."""
    values = [p["fp32"] for p in paces]
    return max(values) / min(values) - 1
