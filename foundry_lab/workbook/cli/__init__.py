"""The `foundry-lab` command. What loads slowly, the command that needs it imports: `--help` is quick."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from foundry_lab import __version__, engine, workbook
from foundry_lab.config import Settings
from foundry_lab.errors import FoundryError
from foundry_lab.workbook.cli.batch import batch
from foundry_lab.workbook.cli.model import model
from foundry_lab.workbook.cli.service import handled, interrupting, left_as_found

OWN_KERNEL = "--ServerApp.kernel_spec_manager_class=foundry_lab.workbook.kernel.ThisPythonSpecManager"


class Commands(click.Group):
    """A group whose commands end a `FoundryError`, or a file that may not be used, as one paragraph and exit
    code 1, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FoundryError, PermissionError) as error:
            if ctx.params.get("debug"):
                raise
            text = str(error)
            if isinstance(error, PermissionError):
                text = f"{error.strerror}: {error.filename}. Choose another place, or get the right to it."
            raise click.ClickException(text) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="foundry-lab")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """A workbook about calling Microsoft Foundry Local as a plain REST service."""


@main.command()
@click.argument("names", nargs=-1, metavar="[NOTEBOOK]...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default="foundry-lab-output",
    show_default=True, help="Folder for the executed notebooks and their HTML pages.",
)  # fmt: skip
@click.option("--timeout", type=click.IntRange(1), help="Limit for one cell in seconds; none unless given.")
@click.option("--keep", is_flag=True, help="Leave the service running, if this run started it.")
def run(names: tuple[str, ...], output: Path, timeout: int | None, keep: bool) -> None:
    """Execute notebooks: all, or those named (01, 01_basic, path/to/own.ipynb)."""
    from foundry_lab.workbook import runner

    notebooks = workbook.find(names) if names else workbook.notebooks()
    runner.check_outputs(notebooks, output)
    failed = 0
    with interrupting(), left_as_found(keep=keep):
        engine.ensure_service(progress=True)
        for notebook in notebooks:
            result = runner.run_notebook(notebook, output, timeout=timeout)
            if result.failure:
                failed += 1
                click.echo(f"\n{notebook.stem}: {result.failure}\n", err=True)
                state = f"{click.style('FAILED', fg='red')} at code cell {result.cells + 1} after"
            else:
                state = f"{click.style('ok', fg='green')}, {result.cells} code cells in"
            click.echo(f"{notebook.stem}: {state} {result.seconds:.1f} s, {result.page}")
    if failed:
        raise click.ClickException(f"{failed} of {len(notebooks)} notebooks failed.")


@main.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "-f", "--folder", type=click.Path(path_type=Path, file_okay=False),
    default="foundry-lab-notebooks", show_default=True,
    help="Your own folder; the notebooks are copied into it, and what is there stays.",
)  # fmt: skip
@click.argument("jupyter_options", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTER_OPTION]...")
def lab(folder: Path, jupyter_options: tuple[str, ...]) -> None:
    """Open JupyterLab on your copy of the notebooks. Further options, as --no-browser, go to JupyterLab."""
    if folder.resolve() != workbook.folder():
        _copy_to(folder)
    with interrupting(), left_as_found():
        engine.ensure_service(progress=True)
        command = [sys.executable, "-m", "jupyterlab", str(folder), *jupyter_options, OWN_KERNEL]
        process = subprocess.Popen(command)

        def pass_on(number: int, _: Any) -> None:
            if number != signal.SIGINT:  # a Ctrl-C JupyterLab got too, and asks whether it is meant
                process.terminate()

        with handled(pass_on):
            code = process.wait()
    if code:
        raise click.ClickException(f"JupyterLab ended with exit code {code}.")


@main.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1; a free one by default."
)
@click.option(
    "--public-catalog", is_flag=True, help="Serve the models of Microsoft's catalog as well (online)."
)
def serve(port: int, public_catalog: bool) -> None:
    """Run the embedded service in the foreground until Ctrl-C."""

    def on_ready(state: engine.ServiceState) -> None:
        click.echo(f"Foundry Local answers at {state.url} with {state.model_id}. Ctrl-C ends it.")
        click.echo(f"Other programs: FOUNDRY_ENDPOINT={state.url}")

    public_catalog = public_catalog or Settings().catalog == "public"
    engine.serve(port=port, public_catalog=public_catalog, on_ready=on_ready)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object; null when nothing runs.")
def status(as_json: bool) -> None:
    """Show the lab's running service. Exit code 1 if there is none."""
    import psutil

    shown: dict[str, Any] | None = None
    if state := engine.service_status():
        shown = {name: value for name, value in msgspec.to_builtins(state).items() if "token" not in name}
        with suppress(psutil.Error):  # it may have ended this moment
            shown["memory_mib"] = round(psutil.Process(state.pid).memory_info().rss / 2**20, 1)
    if as_json:
        _show_json(shown)
    elif state and shown:
        click.echo(f"endpoint   {state.url}")
        click.echo(f"model      {state.alias} ({state.model_id})")
        click.echo(f"process    {state.pid}, {shown.get('memory_mib', 0):.0f} MiB")
        click.echo(f"versions   {', '.join(f'{name} {version}' for name, version in state.versions.items())}")
        click.echo(f"log        {state.log_file or 'the terminal of foundry-lab serve'}")
    else:
        click.echo("No service is running. It starts when it is needed, or with: foundry-lab serve")
    if not as_json and (attached := Settings().endpoint):
        click.echo(f"attached   {attached}, which FOUNDRY_ENDPOINT names: clients use that one")
    if not shown:
        sys.exit(1)


@main.command()
def stop() -> None:
    """Stop the running service."""
    click.echo("Stopped." if engine.stop_service() else "No service was running.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list of the findings.")
def doctor(as_json: bool) -> None:
    """Check this machine and say what to do. Exit code 1 if something stops the workbook."""
    from foundry_lab.workbook.doctor import run_checks

    findings = run_checks()
    if as_json:
        _show_json(findings)
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for check in findings:
            mark = click.style(f"{check.status:5}", fg=colours[check.status])
            click.echo(f"{mark} {check.name:12} {check.found}")
            if check.advice:
                click.echo(f"{'':18} -> {check.advice}")
    if any(check.status == "fail" for check in findings):
        sys.exit(1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--teacher", is_flag=True, help="With outputs and solutions, and a course for nbgrader.")
def new(folder: Path, teacher: bool) -> None:
    """Copy the notebooks into FOLDER, to work in. Files that are there are kept."""
    _copy_to(folder, teacher=teacher)


def _show_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def _copy_to(folder: Path, *, teacher: bool = False) -> None:
    from foundry_lab.workbook import copies

    report = copies.copy_to(folder, teacher=teacher)
    click.echo(f"{folder}: {len(report.copied)} files copied, {len(report.unchanged)} there already.")
    if report.kept:
        click.echo(f"Kept as they are, because they were changed: {', '.join(report.kept)}")


main.add_command(batch)
main.add_command(model)
