"""`foundry-lab batch`: run a file of prompts through the model, stop when you like, go on where it was."""

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from foundry_lab._ground.files import WINDOWS
from foundry_lab.config import Settings
from foundry_lab.errors import FoundryError, ModelNotFoundError
from foundry_lab.workbook.cli.service import interrupting, left_as_found

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="JSONL file for the results.")
@click.option("-t", "--template", help='A prompt for each row or line, such as "Summarise: {text}".')
@click.option(
    "-c", "--concurrency", default="2", show_default=True, metavar="N",
    help='Requests at once at each endpoint, or "adaptive".',
)  # fmt: skip
@click.option(
    "--resume/--no-resume", default=True, show_default=True,
    help="Go on with what OUTPUT holds; --no-resume refuses one that isn't empty.",
)  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Run those again that failed.")
@click.option("--skip-bad", is_flag=True, help="Run the good items although some can't be used.")
@click.option("--ordered", is_flag=True, help="At the end, put the results in the order of the input.")
@click.option("--model", help="Alias or id, for items that name none.")
@click.option("--override-model", is_flag=True, help="Ask that model whatever the items name.")
@click.option("--system", help="System prompt for all items.")
@click.option("--max-tokens", type=int, help="Limit of each answer.")
@click.option("--temperature", type=float, help="0 gives the same answer every time.")
@click.option("--seed", type=int, help="Seed for sampling.")
@click.option("--timeout", type=float, help="Seconds for one item, all attempts included.")
@click.option(
    "--endpoint", "endpoints", multiple=True, help="A service's address; more than once shares the work."
)
@click.option("--wait-for-service", type=float, help="Seconds to wait for a service that goes away; 600.")
@click.option("--cache", type=PATH, help="Response cache: an SQLite file.")
@click.option("--progress/--no-progress", default=None, help="By default a bar on a terminal.")
def batch(source: Path, output: Path, concurrency: str, cache: Path | None, **options: Any) -> None:
    """Run INPUT through the model: .jsonl (prompts, or OpenAI Batch lines), .csv, .tsv or .txt.

    Every finished item is in OUTPUT at once. After Ctrl-C, a crash or a power cut, the same command goes on.
    Exit code 0 when every item has an answer, 1 when some failed or the batch had to stop, 130 after Ctrl-C,
    SIGTERM or SIGHUP.
    """
    from foundry_lab.sync_client import SyncFoundryAPIClient

    if output == Path("-"):  # elsewhere that is the standard output
        raise click.UsageError("The next run goes on with the results, so name a file: -o results.jsonl")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    number: Any = concurrency
    with contextlib.suppress(ValueError):  # "adaptive"; the batch says what else it may be
        number = int(concurrency)
    elsewhere = bool(options["endpoints"] or Settings().endpoint)
    try:
        with interrupting(), left_as_found(keep=elsewhere):
            client = SyncFoundryAPIClient(cache=cache)  # it connects when the input has been found good
            report = client.complete_batch(source, output=output, concurrency=number, **given)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal has gone
            click.echo(f"\nStopped; what was finished is saved. To go on: {_same_command()}", err=True)
        sys.exit(130)  # as shells have it after Ctrl-C
    except FoundryError as error:
        raise _for_a_shell(error) from error
    click.echo(str(report).replace("retry_failed=True runs", "--retry-failed runs"))
    if report.failed or report.failed_before:
        sys.exit(1)


def _same_command(*more: str) -> str:
    join = subprocess.list2cmdline if WINDOWS else shlex.join
    return join(["foundry-lab", *sys.argv[1:], *more])


def _for_a_shell(error: FoundryError) -> FoundryError:
    """Put the command's own words where an error's text says what to give in Python."""
    text = str(error)
    if "override_model=True" in text and isinstance(error, ModelNotFoundError):
        text = text[: text.index("complete_batch(")] + _same_command(
            "--model", error.available[0], "--override-model"
        )
    error.args = (text.replace("skip_bad=True", "--skip-bad"),)
    return error
