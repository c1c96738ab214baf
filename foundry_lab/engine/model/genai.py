"""GenAI's configuration, which can name libraries to load: none that lies beside a model is ever read."""

from typing import Any

from foundry_lab.engine import spec

MODEL_FILE = "model.onnx"


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
