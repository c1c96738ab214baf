"""The model gets the threads of the machine it runs on, whichever machine prepared it."""

import json
import os

import psutil
import pytest
import tiny_model

from foundry_lab.engine import spec
from foundry_lab.engine.model import genai, prepare
from foundry_lab.errors import ConfigurationError


@pytest.fixture
def model(tmp_path, monkeypatch):
    tiny_model.make_lab(tmp_path, monkeypatch)
    return prepare.prepare_model(progress=False).path


def written(model):
    return json.loads((model / spec.CONFIG).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("cores", "usable", "expected"),
    [
        (2, 2, 2),
        (4, 4, 4),
        (1, 1, 1),
        (1, 2, 1),
        (8, 16, 8),
        (8, 8, 4),
        (64, 128, 16),
        (64, 2, 2),
        (None, 4, 2),
    ],
    ids=[
        "two cores",
        "four",
        "one",
        "one with two threads",
        "eight with two threads",
        "eight, perhaps some slow",
        "a server",
        "a container's limit",
        "unknown",
    ],
)
def test_the_number_of_threads_fits_the_machine(model, monkeypatch, cores, usable, expected):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: cores)
    monkeypatch.setattr(genai, "usable_cpus", lambda: usable)
    genai.write_config(model)
    options = written(model)["model"]["decoder"]["session_options"]
    assert options["intra_op_num_threads"] == expected
    assert prepare.find_prepared() is not None, "the number of threads is no damage"


def test_the_number_of_threads_can_be_given(model, monkeypatch):
    """For thirty learners on one machine, each with a service."""
    monkeypatch.setenv("FOUNDRY_LAB_THREADS", " 1 ")
    genai.write_config(model)
    assert written(model)["model"]["decoder"]["session_options"]["intra_op_num_threads"] == 1


def test_more_threads_than_cpus_are_none(monkeypatch):
    """Foundry Local would hang with a hundred thousand, and not read three thousand million."""
    monkeypatch.setattr(genai, "usable_cpus", lambda: 4)
    for given, expected in {"3": 3, "4": 4, "100000": 4, "3000000000": 4}.items():
        monkeypatch.setenv("FOUNDRY_LAB_THREADS", given)
        assert genai.thread_count() == expected


@pytest.mark.parametrize("value", ["0", "-2", "1.5", "two", "nan", "inf"])
def test_a_number_of_threads_that_is_none_is_told(monkeypatch, value):
    monkeypatch.setenv("FOUNDRY_LAB_THREADS", value)
    with pytest.raises(ConfigurationError, match=r"FOUNDRY_LAB_THREADS=.* whole number from 1"):
        genai.thread_count()


def test_all_else_is_as_prepared(model):
    config = written(model)
    del config["model"]["decoder"]["session_options"]["intra_op_num_threads"]
    assert config == json.loads((model / spec.BASE_CONFIG).read_text(encoding="utf-8"))


def test_nothing_is_taken_from_the_base(model):
    """ONNX Runtime would load the library into the service."""
    fitting = written(model)
    base = model / spec.BASE_CONFIG
    hostile = json.loads(base.read_bytes())
    decoder = hostile["model"]["decoder"]
    decoder["session_options"]["custom_ops_library"] = "/tmp/evil.so"
    decoder["session_options"]["provider_options"] = [{"evil": {}}]
    decoder["filename"] = "../../evil.onnx"
    hostile["model"]["type"] = "evil"
    decoder["head_size"] = "/tmp/evil.so"
    hostile["search"]["top_k"] = "evil"
    base.write_text(json.dumps(hostile))
    genai.write_config(model)
    assert written(model) == fitting


@pytest.mark.parametrize("damage", [b"", b"{", None], ids=["empty", "half", "missing"])
def test_a_damaged_one_is_written_anew(model, damage):
    before = written(model)
    if damage is None:
        (model / spec.CONFIG).unlink()
    else:
        (model / spec.CONFIG).write_bytes(damage)
    genai.write_config(model)
    assert written(model) == before


def test_one_that_fits_is_left_alone(model):
    before = (model / spec.CONFIG).stat().st_mtime_ns
    genai.write_config(model)
    assert (model / spec.CONFIG).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], 8),
        (["max 100000\n"], 8),
        (["250000 100000\n"], 3),
        (["50000 100000\n"], 1),
        (["9900000 100000\n"], 8),
        (["-1\n", "100000\n"], 8),
        (["200000\n", "100000\n"], 2),
        (["nonsense"], 8),
    ],
    ids=["none", "unlimited", "two and a half", "half", "more than there are", "v1", "v1 of two", "garbage"],
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, limits, expected):
    files = [tmp_path / str(number) for number in range(len(limits))]
    for file, text in zip(files, limits, strict=True):
        file.write_text(text)
    monkeypatch.setattr(genai, "CONTAINER_LIMITS", [("/no/such/file",), files])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert genai.usable_cpus() == expected
