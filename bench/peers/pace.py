"""The pace of the machine at a moment, and whether it moved: shared hosts change their speed by up to 2x."""

import functools
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("BENCH_KERNELS", str(ROOT / "build" / "bench_kernels"))


def require(device):
    if device == "cpu" and not os.access(PROGRAM, os.X_OK):
        raise SystemExit(f"error: {PROGRAM} is missing, it measures the pace of the machine: ninja -C build bench_kernels (or set BENCH_KERNELS)")


# A GPU of one's own holds its pace: it is asked once.
GPU_PACE = """
import json, time, torch
def rate(amount, call):
    for _ in range(3): call()
    torch.cuda.synchronize(); begin = time.monotonic()
    for _ in range(10): call()
    torch.cuda.synchronize()
    return 10 * amount / (time.monotonic() - begin)
def product(dtype):
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    return rate(2 * 8192**3, lambda: a @ b)
x = torch.zeros(1 << 28, device="cuda")
print(json.dumps({"bf16": product(torch.bfloat16), "fp32": product(torch.float32), "read": rate(8 * x.numel(), lambda: x.add_(1))}))
"""


@functools.cache
def of_gpu(python):
    return json.loads(subprocess.run([python, "-c", GPU_PACE], check=True, stdout=subprocess.PIPE, text=True).stdout)


def now(threads, device="cpu", python="python3"):
    """FLOP/s of loops in registers: {"bf16": …, "fp32": …}, and bytes/s read. bf16 is 0 where the processor has none. Of a
    GPU: FLOP/s of large products. Medians over a second: a hiccup is no change of pace."""
    if device == "cuda":
        return of_gpu(python)
    done = subprocess.run([PROGRAM, "peak", "--rounds", "25"], check=True, stdout=subprocess.PIPE, text=True,
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
