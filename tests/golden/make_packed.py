# SPDX-License-Identifier: MIT
"""Makes packed.safetensors: matrices as GPTQ, AWQ, compressed-tensors, ModelOpt and F8 checkpoints hold them.

    python3 -m venv venv && venv/bin/pip install -r tests/golden/requirements.txt
    venv/bin/python tests/golden/make_packed.py

Each NAME has the tensors of its scheme (NAME.qweight ...) and NAME.values, the floats that
they stand for, computed here from the integers before they were packed. The layouts are those
of AutoGPTQ's QuantLinear.pack, AutoAWQ's WQLinear_GEMM and compressed-tensors' pack_to_int32;
compressed-tensors' own reader makes the same values of those in E2M1, rounded to BF16.
"""

import json
import os

import numpy as np
from ml_dtypes import float4_e2m1fn, float8_e4m3fn
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS, COLUMNS = 40, 256
rng = np.random.default_rng(7)
tensors = {}


def pack(values, axis, bits=4, order=None):
    """Unsigned integers along an axis into words of 32 bits, the first lowest."""
    per = 32 // bits
    values = np.moveaxis(values.astype(np.uint32), axis, -1)
    values = values.reshape(*values.shape[:-1], -1, per)
    if order:
        values = values[..., order]
    words = np.bitwise_or.reduce(values << (np.arange(per, dtype=np.uint32) * bits), axis=-1)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def draw(n_groups, bits=4):
    codes = rng.integers(0, 1 << bits, (ROWS, COLUMNS))
    scales = (rng.random((ROWS, n_groups)) * 0.02 + 0.001).astype(np.float16)
    zeros = rng.integers(1, 1 << bits, (ROWS, n_groups))
    return codes, scales, zeros


def values(codes, scales, zeros, groups):
    """(rows, columns) of floats; groups: of each column."""
    return scales.astype(np.float32)[:, groups] * (codes - zeros[:, groups]).astype(np.float32)


def gptq(name, size, act_order=False, v2=False):
    codes, scales, zeros = draw(COLUMNS // size)
    groups = np.arange(COLUMNS) // size
    if act_order:
        groups = rng.permutation(groups)
    tensors[f"{name}.qweight"] = pack(codes.T, 0)
    tensors[f"{name}.qzeros"] = pack((zeros if v2 else zeros - 1).T, 1)
    tensors[f"{name}.scales"] = np.ascontiguousarray(scales.T)
    tensors[f"{name}.g_idx"] = groups.astype(np.int32)
    tensors[f"{name}.values"] = values(codes, scales, zeros, groups)


def awq(name, size):
    codes, scales, zeros = draw(COLUMNS // size)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    tensors[f"{name}.qweight"] = pack(codes.T, 1, order=order)
    tensors[f"{name}.qzeros"] = pack(zeros.T, 1, order=order)
    tensors[f"{name}.scales"] = np.ascontiguousarray(scales.T)
    tensors[f"{name}.values"] = values(codes, scales, zeros, np.arange(COLUMNS) // size)


def compressed(name, size, bits=4, symmetric=True, act_order=False):
    codes, scales, zeros = draw(COLUMNS // size, bits)
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    groups = np.arange(COLUMNS) // size
    if act_order:
        groups = rng.permutation(groups)
        tensors[f"{name}.weight_g_idx"] = groups.astype(np.int32)
    tensors[f"{name}.weight_packed"] = pack(codes, 1, bits)
    tensors[f"{name}.weight_scale"] = scales
    tensors[f"{name}.weight_shape"] = np.array([ROWS, COLUMNS], dtype=np.int64)
    if not symmetric:
        tensors[f"{name}.weight_zero_point"] = pack(zeros, 0, bits)
    tensors[f"{name}.values"] = values(codes, scales, zeros, groups)


def compressed_int8(name, symmetric=True):
    codes, scales, zeros = draw(1, 8)
    if symmetric:
        zeros[:] = 128
    else:
        tensors[f"{name}.weight_zero_point"] = (zeros - 128).astype(np.int8)
    tensors[f"{name}.weight"] = (codes - 128).astype(np.int8)
    tensors[f"{name}.weight_scale"] = scales.astype(np.float32)
    tensors[f"{name}.values"] = values(codes, scales, zeros, np.zeros(COLUMNS, dtype=int))


def f8(name, scales, ending, rows, block=128):
    weights = rng.normal(size=(rows, COLUMNS)).astype(float8_e4m3fn)
    weights.view(np.uint8)[0, :4] = [0x00, 0x80, 0x01, 0x7e]
    tensors[f"{name}.weight"] = weights
    tensors[f"{name}.{ending}"] = scales
    spread = scales
    if scales.ndim == 2 and scales.shape[0] != rows:
        spread = np.repeat(np.repeat(scales, block, 0), block, 1)[:rows, :COLUMNS]
    tensors[f"{name}.values"] = weights.astype(np.float32) * spread.astype(np.float32)


fp4_rng = np.random.default_rng(8)


def fp4(name, codes_ending, factor_ending=None):
    """E2M1 with scales for 16 (E4M3, and a factor) or, without the ending of one, for 32 (E8M0)."""
    codes = fp4_rng.integers(0, 16, (ROWS, COLUMNS)).astype(np.uint8)
    numbers = codes.view(float4_e2m1fn).astype(np.float32)
    if factor_ending:
        scales = (fp4_rng.random((ROWS, COLUMNS // 16)) * 448).astype(float8_e4m3fn)
        scales.view(np.uint8)[0, :3] = [0x00, 0x01, 0x7e]
        divides = factor_ending == "weight_global_scale"
        factor = np.array([5376.0 if divides else 1 / 8192], dtype=np.float32)
        tensors[f"{name}.{factor_ending}"] = factor if divides else factor.reshape(())
        spread = scales.astype(np.float32) / factor if divides else scales.astype(np.float32) * factor
    else:
        scales = fp4_rng.integers(110, 125, (ROWS, COLUMNS // 32)).astype(np.uint8)
        spread = np.exp2(scales.astype(np.float32) - 127)
    tensors[f"{name}.{codes_ending}"] = codes[:, ::2] | codes[:, 1::2] << 4
    tensors[f"{name}.weight_scale"] = scales
    tensors[f"{name}.values"] = numbers * np.repeat(spread, COLUMNS // scales.shape[1], 1)


def fused(folder, method, pack_matrix):
    """Phi-3 of one layer whose fused matrices are packed, and as packed_NAME.values what they stand for."""
    global ROWS, COLUMNS
    os.makedirs(f"{HERE}/packed/{folder}", exist_ok=True)
    config = json.load(open(f"{HERE}/arch/phi4_longrope/config.json"))
    config |= {"num_hidden_layers": 1, "quantization_config": {"quant_method": method, "weight_block_size": [32, 32]}}
    with open(f"{HERE}/packed/{folder}/config.json", "w") as out:
        json.dump(config, out, indent=1, sort_keys=True)
    tensors.clear()
    with safe_open(f"{HERE}/arch/phi4_longrope/model.safetensors", framework="np") as weights:
        kept = {name: weights.get_tensor(name) for name in weights.keys() if "layers.1." not in name}
    for name, stem in [(n, n.removesuffix(".weight")) for n in kept if "qkv_proj" in n or "gate_up" in n]:
        ROWS, COLUMNS = kept.pop(name).shape
        pack_matrix(stem)
    save_file(kept | tensors, f"{HERE}/packed/{folder}/model.safetensors")


if __name__ == "__main__":
    gptq("gptq_32", 32)
    gptq("gptq_128", 128)
    gptq("gptq_order", 64, act_order=True)
    gptq("gptq_v2", 128, v2=True)
    awq("awq_64", 64)
    awq("awq_128", 128)
    compressed("ct4_32", 32)
    compressed("ct4_channel", COLUMNS)
    compressed("ct4_zeros", 128, symmetric=False)
    compressed("ct4_order", 32, act_order=True)
    compressed("ct8_packed", 64, bits=8)
    compressed_int8("ct8")
    compressed_int8("ct8_zeros", symmetric=False)
    f8("f8_tensor", np.array([0.03], dtype=np.float32), "weight_scale", ROWS)
    f8("f8_channel", (rng.random((ROWS, 1)) * 0.1).astype(np.float32), "weight_scale", ROWS)
    f8("f8_block", (rng.random((2, 2)) * 0.1).astype(np.float32), "weight_scale_inv", 160)
    fp4("nvfp4_ct", "weight_packed", "weight_global_scale")
    fp4("nvfp4_modelopt", "weight", "weight_scale_2")
    fp4("mxfp4_ct", "weight_packed")
    fp4("mxfp4_quark", "weight")
    save_file(tensors, f"{HERE}/packed.safetensors")
    fused("phi3_gptq", "gptq", lambda stem: gptq(stem, 32, act_order=True))
    fused("phi3_awq", "awq", lambda stem: awq(stem, 32))
    fused("phi3_f8", "fp8", lambda stem: f8(stem, (rng.random((-(-ROWS // 32), COLUMNS // 32)) * 0.1).astype(np.float32), "weight_scale_inv", ROWS, 32))
    fused("phi3_nvfp4", "modelopt", lambda stem: fp4(stem, "weight", "weight_scale_2"))
