"""A float32 Llama in numpy over the dequantized GGUF: slow, short, and independent of the converter.

It keeps llama.cpp's own row order of q and k and rotates neighbouring pairs, so a mistake in the converter's
reordering can't hide in both.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def logits(gguf_file: Path, tokens: list[int]) -> np.ndarray:
    """Return the logits (len(tokens), vocabulary) of every position."""
    reader = gguf.GGUFReader(gguf_file)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def setting(key: str) -> float:
        return reader.fields[f"llama.{key}"].contents()

    heads, kv_heads = int(setting("attention.head_count")), int(setting("attention.head_count_kv"))
    size = int(setting("embedding_length")) // heads
    epsilon, base = setting("attention.layer_norm_rms_epsilon"), setting("rope.freq_base")
    count = len(tokens)
    angles = np.arange(count)[:, None] * base ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)[:, None, :]
    future = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name]

    def rotate(x: np.ndarray) -> np.ndarray:
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape).astype(np.float32)

    x = weights["token_embd.weight"][tokens]
    for i in range(int(setting("block_count"))):
        w = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"blk.{i}.")}
        h = norm(x, f"blk.{i}.attn_norm.weight")
        q = rotate((h @ w["attn_q.weight"].T).reshape(count, heads, size))
        k = rotate((h @ w["attn_k.weight"].T).reshape(count, kv_heads, size))
        v = (h @ w["attn_v.weight"].T).reshape(count, kv_heads, size)
        k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", scores, v).reshape(count, -1)
        x = x + mixed.astype(np.float32) @ w["attn_output.weight"].T
        h = norm(x, f"blk.{i}.ffn_norm.weight")
        gate, up = h @ w["ffn_gate.weight"].T, h @ w["ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ weights["token_embd.weight"].T
