"""A Llama of one layer with random weights, in the formats of the real one."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from foundry_lab.engine import spec
from foundry_lab.engine.private import sha256_of

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, CONTEXT = 128, 192, 4, 2, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokens_and_merges() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary; the merge of two digits is a trap, since digits must stay apart."""
    printable = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    other = [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*SPECIAL, *printable, *other, "ab", "12"]
    return tokens, ["a b", "1 2"]


def write_gguf(file: Path, seed: int = 0) -> Path:
    """Write the model; the same seed gives the same file."""
    random = np.random.default_rng(seed)
    tokens, merges = tokens_and_merges()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)

    def matrix(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        values = random.normal(0, 0.1, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    q4, q8 = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
    kv = HIDDEN * KV_HEADS // HEADS
    matrix("token_embd", len(tokens), HIDDEN, q8)
    for part, rows in (("q", HIDDEN), ("k", kv), ("v", kv), ("output", HIDDEN)):
        matrix(f"blk.0.attn_{part}", rows, HIDDEN, q4)
    matrix("blk.0.ffn_gate", FEED_FORWARD, HIDDEN, q4)
    matrix("blk.0.ffn_up", FEED_FORWARD, HIDDEN, q4)
    matrix("blk.0.ffn_down", HIDDEN, FEED_FORWARD, q4)
    for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def make_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point at an empty lab home; FOUNDRY_LAB_GGUF hands over the tiny model as if it were the real one."""
    file = write_gguf(tmp_path / "tiny.gguf")
    home = tmp_path / "home"
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(home))
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", str(file))
    monkeypatch.setattr(spec, "GGUF_SHA256", sha256_of(file))
    monkeypatch.setattr(spec, "GGUF_SIZE", file.stat().st_size)
    return home


def workspaces(home: Path) -> list[Path]:
    """What a preparation left lying about."""
    return list(home.glob("preparing-*"))
