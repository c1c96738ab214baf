"""`foundry-lab batch` as a shell sees it: its words and its exit code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stub_server import CHAT, StubService, chat, error

from foundry_lab.workbook.cli import main
from foundry_lab.workbook.cli.batch import batch


def run(stub: StubService, folder: Path, *more: str) -> Result:
    (folder / "in.txt").write_text("a\nb\n")
    files = [str(folder / "in.txt"), "-o", str(folder / "out.jsonl")]
    return CliRunner().invoke(batch, [*files, "--endpoint", stub.url, "-c", "1", *more])


@pytest.mark.parametrize("concurrency", ["0", "-3", "1.5", "many", "9" * 5_000])
def test_a_concurrency_that_makes_no_sense_is_refused(concurrency: str, tmp_path: Path) -> None:
    with StubService() as stub:
        done = run(stub, tmp_path, "-c", concurrency)
    assert done.exit_code == 1 and 'from 1 to 1024, or "adaptive"' in str(done.exception)


def test_results_need_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-o -` is the standard output with other programs; here it made a file of that name."""
    monkeypatch.chdir(tmp_path)
    with StubService() as stub:
        done = run(stub, tmp_path, "-o", "-")
    assert done.exit_code == 2 and "name a file" in done.output
    assert not (tmp_path / "-").exists()


def test_failed_items_of_an_earlier_run_are_no_success(tmp_path: Path) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, error(400, "no"), chat("ok"))
        first, again, retried = (run(stub, tmp_path, *more) for more in ((), (), ("--retry-failed",)))
    assert (first.exit_code, again.exit_code, retried.exit_code) == (1, 1, 0)
    assert "0 answered, 0 failed, 2 done before, 1 of them failed" in again.output
    assert "--retry-failed runs these again" in again.output


def test_an_error_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words for Python would be of no use in a shell."""
    cloud = tmp_path / "cloud.jsonl"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}
    line = {"custom_id": "x", "method": "POST", "url": "/chat/completions", "body": body}
    cloud.write_text(json.dumps(line) + "\n")
    with StubService() as stub:
        words = [str(cloud), "-o", str(tmp_path / "out.jsonl"), "--endpoint", stub.url]
        monkeypatch.setattr("sys.argv", ["foundry-lab", "batch", *words])
        refused = CliRunner().invoke(main, ["batch", *words])
        assert refused.exit_code == 1
        told = shlex.split(refused.output.strip().rpartition("names: ")[2])
        assert told == ["foundry-lab", "batch", *words, "--model", "stub-1b", "--override-model"]
        assert CliRunner().invoke(main, told[1:]).exit_code == 0

        cloud.write_text(json.dumps(line) + "\n{broken\n")
        again = [*told[1:], "--no-resume"]
        refused = CliRunner().invoke(main, again)
        assert "line 2: It is no JSON" in refused.output
        assert "To run the others all the same: --skip-bad." in refused.output
        skipped = CliRunner().invoke(main, [*told[1:], "--skip-bad"])
        assert skipped.exit_code == 1
        assert "0 answered, 1 failed, 1 done before" in skipped.output


def test_a_home_in_the_outputs_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell does so within --output=~/name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with StubService() as stub:
        (tmp_path / "in.txt").write_text("a\n")
        done = CliRunner().invoke(batch, ["~/in.txt", "--output=~/out.jsonl", "--endpoint", stub.url])
    assert (done.exit_code, (tmp_path / "out.jsonl").exists()) == (0, True)
