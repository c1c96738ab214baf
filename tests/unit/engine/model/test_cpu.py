"""The model gets the threads of the machine it runs on, whichever machine prepared it."""

import json
import os
import sys

import loky
import psutil
import pytest
import tiny_model

from foundry_lab.engine import spec
from foundry_lab.engine.model import cpu, prepare


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
    monkeypatch.setattr(loky, "cpu_count", lambda: usable)
    cpu.write_config(model)
    options = written(model)["model"]["decoder"]["session_options"]
    assert options["intra_op_num_threads"] == expected
    assert prepare.find_prepared() is not None, "the number of threads is no damage"


@pytest.mark.skipif(sys.platform != "linux", reason="CPUs are given to threads on Linux alone")
def test_each_thread_may_run_on_every_cpu_of_the_process(model, monkeypatch):
    monkeypatch.setattr(cpu, "thread_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 4, 7})
    options = cpu.thread_options()
    assert options["session.intra_op_thread_affinities"] == "5,6,8;5,6,8"
    monkeypatch.setattr(cpu, "thread_count", lambda: 1)
    assert cpu.thread_options() == {"intra_op_num_threads": 1}


def test_all_else_is_as_prepared(model):
    config = written(model)
    for name in cpu.thread_options():
        del config["model"]["decoder"]["session_options"][name]
    assert config == json.loads((model / spec.BASE_CONFIG).read_text(encoding="utf-8"))


@pytest.mark.parametrize("damage", [b"", b"{", None], ids=["empty", "half", "missing"])
def test_a_damaged_one_is_written_anew(model, damage):
    before = written(model)
    if damage is None:
        (model / spec.CONFIG).unlink()
    else:
        (model / spec.CONFIG).write_bytes(damage)
    cpu.write_config(model)
    assert written(model) == before


def test_one_that_fits_is_left_alone(model):
    before = (model / spec.CONFIG).stat().st_mtime_ns
    cpu.write_config(model)
    assert (model / spec.CONFIG).stat().st_mtime_ns == before
