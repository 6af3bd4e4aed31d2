#!/usr/bin/env python3
"""Write tests/fixtures/torch: files of weights as torch.save writes them, and files that mean harm.

Rerun from the repository root with a Python that has torch and safetensors:

    python tools/reference/torch_fixtures.py [--out tests/fixtures/torch]

  golden.bin       a small state dict: four dtypes, an OrderedDict with torch's
                   metadata, a parameter, a scalar, an empty tensor, two tensors
                   in one storage; golden.safetensors holds the same numbers
  protocol4.bin    the same with pickle protocol 4
  sharded/         the mistral fixture in two .bin shards with an index
  bad_*.bin        each must be refused (the name says why)
"""
import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import shutil
import zipfile

import torch
from safetensors.torch import load_file, save_file


def state():
    g = torch.Generator().manual_seed(1)
    base = torch.randn(4, 6, generator=g)
    s = collections.OrderedDict()
    s["a.weight"] = base[1:3]                     # a view that begins inside of its storage
    s["b.weight"] = base
    s["bf16"] = torch.randn(3, 5, generator=g).bfloat16()
    s["f16"] = torch.randn(7, generator=g).half()
    s["f64"] = torch.randn(2, 2, generator=g).double()
    s["parameter"] = torch.nn.Parameter(torch.randn(2, 3, generator=g))
    s["scalar"] = torch.tensor(1.5)
    s["empty"] = torch.zeros(0, 4)
    s["ids"] = torch.arange(5)
    s._metadata = collections.OrderedDict([("", {"version": 1})])
    return s


def archive(path, pickled, entries=(), compression=zipfile.ZIP_STORED, folder="archive"):
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr(f"{folder}/data.pkl", pickled)
        for name, data in entries:
            z.writestr(f"{folder}/{name}", data)


class Harm:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    def __init__(self, kind, key, elements):
        self.id = "storage", kind, key, "cpu", elements


class Pickler(pickle.Pickler):
    def persistent_id(self, x):
        return x.id if isinstance(x, Storage) else None


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = storage, offset, shape, strides, False, collections.OrderedDict()

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


def pickled(x):
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(x)
    return out.getvalue()


def tensor(path, key="0", elements=6, offset=0, shape=(2, 3), strides=(3, 1), data=b"\0" * 24, entry="data/0", **more):
    t = Tensor(Storage(torch.FloatStorage, key, elements), offset, shape, strides)
    archive(path, pickled({"w": t}), [(entry, data)], **more)


def bad(out):
    tensor(out / "bad_storage_outside.bin", key="../../secret")
    tensor(out / "bad_storage_missing.bin", key="1")
    tensor(out / "bad_storage_size.bin", elements=7)
    tensor(out / "bad_storage_huge.bin", elements=2 ** 62)
    tensor(out / "bad_offset.bin", offset=1)
    tensor(out / "bad_offset_negative.bin", offset=-1)
    tensor(out / "bad_shape.bin", shape=(3, 3))
    tensor(out / "bad_shape_negative.bin", shape=(-2, -3))
    tensor(out / "bad_shape_overflow.bin", shape=(2 ** 40, 2 ** 40))
    tensor(out / "bad_strides.bin", strides=(1, 2))
    tensor(out / "bad_strides_zero.bin", strides=(0, 0))
    tensor(out / "bad_strides_count.bin", strides=(3,))
    tensor(out / "bad_compressed.bin", compression=zipfile.ZIP_DEFLATED)
    tensor(out / "bad_no_pickle.bin", folder="a/b")
    archive(out / "bad_big_endian.bin", pickled({}), [("byteorder", b"big")])
    archive(out / "bad_os_system.bin", pickled({"w": Harm(os.system, "touch /tmp/attune_was_here")}))
    archive(out / "bad_eval.bin", pickled({"w": Harm(eval, "1")}))
    archive(out / "bad_getattr.bin", pickled({"w": Harm(getattr, "x", "upper")}))
    archive(out / "bad_dtype_as_function.bin", b"\x80\x02ctorch\nFloatStorage\n)R.")
    archive(out / "bad_nested.bin", pickled({"model": {"w": 1}}))
    archive(out / "bad_list.bin", pickled([1, 2]))
    archive(out / "bad_memo.bin", b"\x80\x02h\x05.")
    archive(out / "bad_deep.bin", b"\x80\x02" + b"(" * 20000 + b".", compression=zipfile.ZIP_STORED)
    archive(out / "bad_deep_tuples.bin", b"\x80\x02)" + b"\x85" * 20000 + b".")
    archive(out / "bad_self.bin", b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s.")
    archive(out / "bad_protocol0.bin", pickle.dumps({}, protocol=0))
    archive(out / "bad_text_size.bin", b"\x80\x02X\xff\xff\xff\xff.")
    archive(out / "bad_rebuild.bin", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.")
    with zipfile.ZipFile(out / "bad_two_pickles.bin", "w") as z:
        z.writestr("a/data.pkl", pickled({}))
        z.writestr("b/data.pkl", pickled({}))
    torch.save({"w": torch.zeros(2)}, out / "bad_old_format.bin", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.zeros(2, 3).t()}, out / "bad_transposed.bin")


def sharded(out, source):
    folder = out / "sharded"
    folder.mkdir()
    shutil.copy(source / "config.json", folder / "config.json")
    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    index = {}
    for i, part in enumerate((names[:7], names[7:])):
        name = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({n: weights[n] for n in part}, folder / name)
        index |= {n: name for n in part}
    total = sum(w.numel() * w.element_size() for w in weights.values())
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default="tests/fixtures/torch", type=pathlib.Path)
    out = ap.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    s = state()
    torch.save(s, out / "golden.bin")
    torch.save(s, out / "protocol4.bin", pickle_protocol=4)
    save_file({n: t.detach().clone() for n, t in s.items()}, out / "golden.safetensors", metadata={"format": "pt"})
    sharded(out, pathlib.Path("tests/fixtures/families/mistral"))
    bad(out)
    back = torch.load(out / "golden.bin", weights_only=True)
    assert all(torch.equal(back[n], t) for n, t in s.items())
    for f in out.rglob("*"):
        if f.is_file():
            f.chmod(0o644)
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
