"""The written model is one that ONNX Runtime runs and whose tokenizer splits as llama.cpp's does."""

import json

import gguf
import numpy as np
import onnxruntime
import pytest
import tiny_model
from tokenizers import Tokenizer

from foundry_lab.engine import spec
from foundry_lab.engine.model.convert import DATA_FILE, MODEL_FILE, write_model
from foundry_lab.engine.model.tokenizer import write_configuration


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    reader = gguf.GGUFReader(tiny_model.write_gguf(directory / "tiny.gguf"))
    write_model(reader, directory)
    write_configuration(reader, directory)
    return directory


class Session:
    """The model with its cache, fed as GenAI does."""

    def __init__(self, directory):
        self.session = onnxruntime.InferenceSession(
            directory / MODEL_FILE, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.length = 0
        head_size = tiny_model.HIDDEN // tiny_model.HEADS
        empty = np.zeros((1, tiny_model.KV_HEADS, 0, head_size), np.float32)
        self.past = dict.fromkeys(self.names("past_key_values"), empty)

    def names(self, prefix):
        return [value.name for value in self.session.get_inputs() if value.name.startswith(prefix)]

    def feed(self, tokens):
        """Return the logits the model gives for these tokens."""
        self.length += len(tokens)
        mask = np.ones((1, self.length), np.int64)
        result = self.session.run(
            None, {"input_ids": np.array([tokens]), "attention_mask": mask, **self.past}
        )
        named = dict(zip(self.outputs, result, strict=True))
        self.past = {name: named[name.replace("past_key_values", "present")] for name in self.past}
        return named["logits"]


def test_prompt_at_once_and_token_by_token_agree(model):
    tokens = [5, 90, 17, 200, 33, 8]
    at_once = Session(model).feed(tokens)
    assert at_once.shape == (1, 1, len(tiny_model.tokens_and_merges()[0]))
    session = Session(model)
    one_by_one = [session.feed([token]) for token in tokens]
    np.testing.assert_allclose(at_once, one_by_one[-1], atol=0.05 * np.abs(at_once).max())
    assert np.abs(one_by_one[0] - one_by_one[-1]).max() > 0.5 * np.abs(at_once).max()


def test_position_matters(model):
    """Rotary angles reach the scores: other order, other logits."""
    a, b = Session(model).feed([5, 90, 17]), Session(model).feed([90, 5, 17])
    assert np.abs(a - b).max() > 0.05 * np.abs(a).max()


def test_weights_are_aligned_for_mapping(model):
    import onnx

    graph = onnx.load(model / MODEL_FILE, load_external_data=False).graph
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    offsets = [int(place["offset"]) for place in places if place]
    assert offsets and all(offset % 4096 == 0 for offset in offsets)
    assert {place["location"] for place in places if place} == {DATA_FILE}


def test_tokenizer_takes_every_digit_alone_and_special_tokens_whole(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.encode("12ab12").tokens == ["1", "2", "ab", "1", "2"]
    assert tokenizer.encode("ab<|im_end|>").tokens == ["ab", "<|im_end|>"]


@pytest.mark.parametrize("text", ["Grüße, 你好 \U0001f600!", " two  spaces\n\ttab ", "a1b22\r\n"])
def test_tokenizer_gives_the_text_back(model, text):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_configuration_names_what_the_network_takes(model):
    config = json.loads((model / spec.BASE_CONFIG).read_text(encoding="utf-8"))["model"]
    names = {value.name for value in Session(model).session.get_inputs()}
    inputs = config["decoder"]["inputs"]
    assert {inputs["input_ids"], inputs["attention_mask"], inputs["past_key_names"] % 0} <= names
    assert (model / "chat_template.jinja").read_text(encoding="utf-8") == tiny_model.TEMPLATE
