"""GenAI's configuration of a prepared model, with the threads it computes with on this machine.

It can name libraries to load: none that lies beside a model is ever read. The threads are a matter of the
machine the model runs on, not of where it was prepared.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from foundry_lab._ground.checks import check_count
from foundry_lab._ground.files import write_whole
from foundry_lab.engine import spec

MODEL_FILE = "model.onnx"
THREADS = "FOUNDRY_LAB_THREADS"
MOST_BY_CORES = 4
MOST = 16
CONTAINER_LIMITS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files with the CPU time a period and the period, in microseconds: version 2 and 1 of control groups."""


def write_config(directory: Path) -> None:
    """Write a prepared model's `genai_config.json` for this machine; one that fits is left alone.

    Raises:
        OSError: it can't be written.
    """
    config = genai_config({"intra_op_num_threads": thread_count()})
    text = msgspec.json.format(msgspec.json.encode(config), indent=2)
    target = directory / spec.CONFIG
    if not target.is_file() or target.read_bytes() != text:
        write_whole(target, text)


def genai_config(session_options: dict[str, Any]) -> dict[str, Any]:
    """Return the model's `genai_config.json`; see https://onnxruntime.ai/docs/genai/reference/config.html.

    Args:
        session_options: for ONNX Runtime, besides those that never change.
    """
    return {
        "model": {
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "type": "llama",
            "context_length": spec.CONTEXT_LENGTH,
            "vocab_size": 49152,
            "decoder": {
                "filename": MODEL_FILE,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": [], **session_options},
                "hidden_size": 576,
                "head_size": 64,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "num_hidden_layers": 30,
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
            "max_length": spec.CONTEXT_LENGTH,
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


def thread_count() -> int:
    """Return FOUNDRY_LAB_THREADS; unless set, half the usable CPUs, at most 16, and of up to four cores all.

    Several services on the same CPUs are quicker with one thread each, as the threads of an answer wait for
    each other without letting go of their CPU. On two CPUs, two threads made 110 tokens/s, and 30 beside
    another program; one made 60, with and without it.

    Half the machine's CPUs is ONNX Runtime GenAI's own choice (`CreateSessionOptionsFromConfig` in its
    `src/models/model.cpp`): it reckons with two threads a core and knows no container limits. On two
    single-threaded cores, the usual small virtual machine, it takes one; taking both gave twice the tokens in
    plain calls, and about 0.85 of them in a batch with two at once, whose threads wait for each other. Of
    many cores some may be slow ones, which the others wait for: there its choice stands.

    More threads than CPUs are never of use, and the runtime can't make any number of them.

    Raises:
        ConfigurationError: FOUNDRY_LAB_THREADS isn't a whole number from 1.
    """
    usable = usable_cpus()
    if given := os.environ.get(THREADS, "").strip():
        return min(check_count(int(given) if given.isdecimal() else given, THREADS), usable)
    cores = min(psutil.cpu_count(logical=False) or 1, usable)
    return min(MOST, max(min(cores, MOST_BY_CORES), usable // 2))


def usable_cpus() -> int:
    """Return how many CPUs this process may use; a Linux container's limit in time counts too."""
    kept_to = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for files in CONTAINER_LIMITS:
        try:
            quota, period = (int(word) for file in files for word in Path(file).read_text().split())
        except (OSError, ValueError):  # another system, or no limit: "max"
            continue
        if quota > 0 < period:
            return max(1, min(kept_to, math.ceil(quota / period)))
    return kept_to
