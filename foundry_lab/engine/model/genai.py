"""GenAI's configuration, which can name libraries to load: the numbers are the model's, all else is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from foundry_lab.engine import spec

MODEL_FILE = "model.onnx"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of the network, under GenAI's names."""

    hidden_size: int
    head_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a model. Reading it leaves out whatever else a file holds."""

    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    context_length: int
    vocab_size: int
    decoder: Sizes


class _File(msgspec.Struct):
    model: Model


def read_numbers(directory: Path) -> Model:
    """Return the numbers in a prepared model's base configuration.

    Raises:
        OSError, ValueError: it has none that can be read.
    """
    return msgspec.json.decode((directory / spec.BASE_CONFIG).read_bytes(), type=_File).model


def genai_config(model: Model, session_options: dict[str, Any]) -> dict[str, Any]:
    """Return a `genai_config.json`; see https://onnxruntime.ai/docs/genai/reference/config.html.

    Args:
        model: its numbers.
        session_options: for ONNX Runtime, besides those that never change.
    """
    return {
        "model": {
            "bos_token_id": model.bos_token_id,
            "eos_token_id": model.eos_token_id,
            "pad_token_id": model.pad_token_id,
            "type": "llama",
            "context_length": model.context_length,
            "vocab_size": model.vocab_size,
            "decoder": {
                "filename": MODEL_FILE,
                "session_options": {
                    "log_id": "onnxruntime-genai",
                    "provider_options": [],
                    **session_options,
                },
                **asdict(model.decoder),
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
            "max_length": model.context_length,
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
