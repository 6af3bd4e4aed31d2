#!/usr/bin/env python3
"""Write tests/fixtures/quantization/blocks.safetensors: what bitsandbytes makes of random and of adversarial matrices.

Rerun from the repository root with a Python that has torch, bitsandbytes and safetensors:

    python tools/reference/quantization_fixtures.py [--out tests/fixtures/quantization]

For each case <c>: "<c>.values" [rows, cols] in fp32, and for <q> in nf4, fp4 "<c>.<q>.codes" (two a byte), "<c>.<q>.absmax" and
"<c>.<q>.dequantized"; with double quantization "<c>.<q>.double.codes" (of the scales), ".absmax", ".mean" and ".dequantized"; and
"<c>.int8.codes", ".absmax", ".dequantized" (rows of zeros aside, which bitsandbytes divides by zero). "many_scales" has its values
in bf16 and the scales of nf4 alone: ".codes", ".absmax", ".mean".

Scales are quantised by bitsandbytes' reference implementation (the code nearest to each number, as its CUDA kernels take). Its C++
kernel for processors takes another one here and there next to zero.
"""
import argparse
import pathlib

import bitsandbytes.functional as F
import torch
from bitsandbytes.backends.default import ops as reference
from safetensors.torch import save_file

BLOCK = 64


def nested(absmax):
    """Codes of scales, as quantize_4bit(compress_statistics=True) stores them."""
    mean = absmax.mean()
    code = F.create_dynamic_map().float()
    difference = absmax - mean
    codes, outer = [], []
    bounds = (code[:-1] + code[1:]) / 2
    for block in difference.split(256):
        most = block.abs().max()
        codes.append(torch.bucketize(block * (1.0 / most.clamp(min=1e-38)), bounds).to(torch.uint8))
        outer.append(most)
    codes, outer = torch.cat(codes), torch.stack(outer)
    back = code[codes.long()] * outer.repeat_interleave(256)[: codes.numel()] + mean
    return codes, outer, mean.reshape(1), back


def between_codes(table):
    """Blocks of numbers exactly between two codes, and one step to either side."""
    table = table.sort().values
    middle = (table[:-1] + table[1:]) / 2
    numbers = torch.cat([middle, torch.nextafter(middle, torch.tensor(2.0)), torch.nextafter(middle, torch.tensor(-2.0))])
    block = torch.zeros(BLOCK)
    block[0] = 1.0
    block[1 : 1 + numbers.numel()] = numbers
    return torch.stack([block, 2 * block, block / 4, -block])


def cases():
    g = torch.Generator().manual_seed(7)
    out = {
        "random": torch.randn(6, 192, generator=g) * 0.02,
        "many_scales": (torch.randn(20, 832, generator=g) * torch.rand(20, 1, generator=g) * 0.05).bfloat16().float(),  # 260 blocks
        "odd": torch.randn(7, 33, generator=g),  # blocks over the ends of rows, and a short one at the end
        "uniform": torch.rand(3, 128, generator=g) * 2 - 1,
    }
    hard = torch.zeros(8, BLOCK)
    hard[1, 5] = 1e30  # one outlier
    hard[1, 6:] = torch.randn(58, generator=g)
    hard[2] = torch.randn(BLOCK, generator=g) * 1e-40  # subnormal
    hard[3] = -3.5  # all alike
    hard[4] = torch.where(torch.arange(BLOCK) % 2 == 0, 1.0, -1.0)
    hard[5] = torch.randn(BLOCK, generator=g) * 1e-36
    hard[6, 0], hard[6, 1] = 1e36, -1e36
    hard[7] = -0.0
    out["hard"] = hard
    out["between_nf4"] = between_codes(F.get_4bit_type("nf4", device="cpu"))
    out["between_fp4"] = between_codes(F.get_4bit_type("fp4", device="cpu"))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/fixtures/quantization"))
    out = parser.parse_args().out
    tensors = {}
    for name, values in cases().items():
        if name == "many_scales":  # what is particular about it
            _, state = F.quantize_4bit(values, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
            tensors |= dict(zip((f"{name}.{key}" for key in ("codes", "absmax", "mean")), nested(state.absmax))) | {f"{name}.values": values.bfloat16()}
            continue
        tensors[f"{name}.values"] = values
        for kind in ("nf4", "fp4"):
            codes, state = F.quantize_4bit(values, blocksize=BLOCK, quant_type=kind, compress_statistics=False)
            own = {"codes": codes.flatten(), "absmax": state.absmax, "dequantized": F.dequantize_4bit(codes, state)}
            inner, outer, mean, back = nested(state.absmax)
            twice = reference._dequantize_4bit_compute(codes.flatten(), back, F.get_4bit_type(kind, device="cpu"), BLOCK, values.shape, torch.float32)
            own |= {"double.codes": inner, "double.absmax": outer, "double.mean": mean, "double.dequantized": twice}
            tensors |= {f"{name}.{kind}.{key}": t.contiguous() for key, t in own.items()}
        codes, absmax, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(values)
        back = torch.ops.bitsandbytes.int8_vectorwise_dequant(codes, absmax)
        zero = absmax < 4e-37  # 127/absmax overflows or divides by zero: no answer to compare with
        codes[zero], back[zero] = 0, 0
        tensors |= {f"{name}.int8.codes": codes.view(torch.uint8), f"{name}.int8.absmax": absmax, f"{name}.int8.dequantized": back}
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone() for k, v in tensors.items()}, out / "blocks.safetensors")


if __name__ == "__main__":
    main()
