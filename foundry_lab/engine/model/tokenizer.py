"""Tokenizer and generation configuration for ONNX Runtime GenAI, from the GGUF's metadata."""

import json
from pathlib import Path
from typing import Any

import gguf

from foundry_lab.engine import spec
from foundry_lab.engine.model.convert import metadata
from foundry_lab.engine.model.genai import genai_config


def tokenizer_json(tokens: list[str], types: list[int], merges: list[str]) -> dict[str, Any]:
    """Return a Hugging Face `tokenizer.json`: byte-level BPE, each digit a token of its own.

    That is what llama.cpp's pre-tokenizer named `smollm` does.
    """
    as_it_stands = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [
        {"id": i, "content": token, "special": True, **as_it_stands}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == gguf.TokenType.CONTROL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def write_configuration(reader: gguf.GGUFReader, directory: Path) -> None:
    """Write the tokenizer, the chat template, GenAI's configuration and Foundry Local's card of the model."""

    def value(key: str) -> Any:
        return metadata(reader, f"tokenizer.{key}")

    tokens, template = value("ggml.tokens"), value("chat_template")
    start, end = tokens[value("ggml.bos_token_id")], tokens[value("ggml.eos_token_id")]
    documents = {
        "tokenizer.json": tokenizer_json(tokens, value("ggml.token_type"), value("ggml.merges")),
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": spec.CONTEXT_LENGTH,
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "bos_token": start,
            "eos_token": end,
            "pad_token": end,
            "unk_token": tokens[value("ggml.unknown_token_id")],
            "chat_template": template,
        },
        spec.BASE_CONFIG: genai_config({}),
        "inference_model.json": {"Name": spec.MODEL_ID, "PromptTemplate": None},
    }
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        (directory / name).write_bytes(text.encode())  # not text: Windows has other line ends
    (directory / "chat_template.jinja").write_bytes(template.encode())
