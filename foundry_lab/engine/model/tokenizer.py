"""Tokenizer and generation configuration for ONNX Runtime GenAI, from the GGUF's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

from foundry_lab.engine import spec
from foundry_lab.engine.model.convert import MODEL_FILE, read_architecture

CONTROL_TOKEN = int(gguf.TokenType.CONTROL)


def tokenizer_json(tokens: list[str], types: list[int], merges: list[str]) -> dict[str, Any]:
    """Return a Hugging Face `tokenizer.json`: byte-level BPE, each digit a token of its own.

    That is what llama.cpp's pre-tokenizer named `smollm` does.
    """
    special = [
        {
            "id": i,
            "content": token,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == CONTROL_TOKEN
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


def genai_config(reader: gguf.GGUFReader) -> dict[str, Any]:
    """Return what `genai_config.json` is made of; see https://onnxruntime.ai/docs/genai/reference/config.html."""
    arch = read_architecture(reader)
    token_ids = {
        f"{kind}_token_id": reader.fields[f"tokenizer.ggml.{name}_token_id"].contents()
        for kind, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {
        "model": {
            **token_ids,
            "type": "llama",
            "context_length": arch.context,
            "vocab_size": arch.vocabulary,
            "decoder": {
                "filename": MODEL_FILE,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": arch.hidden,
                "head_size": arch.head_size,
                "num_attention_heads": arch.heads,
                "num_key_value_heads": arch.kv_heads,
                "num_hidden_layers": arch.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "diversity_penalty": 0.0,
            "do_sample": False,
            "early_stopping": True,
            "length_penalty": 1.0,
            "max_length": arch.context,
            "min_length": 0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def write_configuration(reader: gguf.GGUFReader, directory: Path) -> None:
    """Write the tokenizer, the chat template, GenAI's configuration and Foundry Local's card of the model."""

    def value(key: str) -> Any:
        return reader.fields[f"tokenizer.{key}"].contents()

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
        spec.BASE_CONFIG: genai_config(reader),
        "inference_model.json": {"Name": spec.MODEL_ID, "PromptTemplate": None},
    }
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
