"""`foundry-lab model`: prepare the embedded service's model, and carry it to machines without internet."""

from pathlib import Path

import click

from foundry_lab import engine


@click.group()
def model() -> None:
    """Prepare the model of the embedded service, or move it to a machine without internet."""


@model.command()
@click.option("--force", is_flag=True, help="Make it anew.")
def prepare(force: bool) -> None:
    """Download (93 MB) and convert the model; done by itself at the first run."""
    ready = engine.prepare_model(progress=True, force=force)
    click.echo(f"{ready.alias} is ready: {ready.path} ({ready.size_bytes / 2**20:.0f} MiB)")


@model.command("list")
def list_models() -> None:
    """Show the prepared models."""
    models = engine.prepared_models()
    for each in models:
        state = f"damaged: {each.problem}" if each.problem else "ok"
        click.echo(f"{each.alias}  {each.model_id}  {each.size_bytes / 2**20:.0f} MiB  {each.path}  {state}")
    if not models:
        click.echo("No model is prepared. To prepare it: foundry-lab model prepare")


@model.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_file(file: Path) -> None:
    """Write the prepared model to FILE, for `model import` elsewhere."""
    written = engine.export_model(file)
    click.echo(f"{written} ({written.stat().st_size / 2**20:.0f} MiB)")


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trust", is_flag=True, help="Take a model that another recipe made, too.")
def import_file(file: Path, trust: bool) -> None:
    """Take a model from FILE, written by `model export`."""
    ready = engine.import_model(file, trust=trust)
    click.echo(f"{ready.alias} is ready: {ready.path}")


@model.command()
@click.confirmation_option("-y", "--yes", prompt="Delete the prepared model?")
def remove() -> None:
    """Delete the prepared model; the next run makes it anew."""
    click.echo("Removed." if engine.remove_model() else "No model was prepared.")
