"""`foundry-lab batch` as a shell sees it: its words and its exit code."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
from stub_server import CHAT, StubService, chat, error

from foundry_lab.workbook.cli.batch import batch


def run(stub: StubService, folder: Path, *more: str) -> Result:
    (folder / "in.txt").write_text("a\nb\n")
    files = [str(folder / "in.txt"), "-o", str(folder / "out.jsonl")]
    return CliRunner().invoke(batch, [*files, "--endpoint", stub.url, "-c", "1", *more])


def test_failed_items_of_an_earlier_run_are_no_success(tmp_path: Path) -> None:
    with StubService() as stub:
        stub.on("POST", CHAT, error(400, "no"), chat("ok"))
        first, again, retried = (run(stub, tmp_path, *more) for more in ((), (), ("--retry-failed",)))
    assert (first.exit_code, again.exit_code, retried.exit_code) == (1, 1, 0)
    assert "0 answered, 0 failed, 2 done before, 1 of them failed" in again.output
    assert "--retry-failed runs these again" in again.output
