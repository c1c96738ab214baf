"""manifest.json: what a prepared model must consist of, so that damage is noticed."""

from pathlib import Path

import msgspec

from foundry_lab._ground.files import write_whole
from foundry_lab.engine import spec
from foundry_lab.engine.model.storage import sha256_of

MANIFEST = "manifest.json"


class FileRecord(msgspec.Struct, frozen=True):
    """Size in bytes, SHA-256 in hexadecimal digits, modification time in whole seconds since the epoch."""

    size: int
    sha256: str
    mtime: int


class Manifest(msgspec.Struct, frozen=True):
    """The model's id, the recipe it was converted by, and its files by name."""

    model_id: str
    recipe: int
    files: dict[str, FileRecord]


def write(directory: Path) -> None:
    """Describe the model's files in manifest.json, whole or not at all. Raises OSError if one is missing."""
    files = {}
    for name in spec.MODEL_FILES:
        status = (directory / name).stat()
        files[name] = FileRecord(status.st_size, sha256_of(directory / name), int(status.st_mtime))
    manifest = Manifest(spec.MODEL_ID, spec.RECIPE, files)
    write_whole(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def read(directory: Path) -> Manifest | None:
    """Read manifest.json; None if it is missing or no manifest."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, ValueError, RecursionError):  # not there, no JSON of this shape, or too deep
        return None


def problem_of(directory: Path, *, full: bool = False, any_recipe: bool = False) -> str | None:
    """Say what is wrong with a model, or None.

    Sizes and modification times are compared; a file is hashed if its time differs, as after a copy, or if
    `full` is set. With `any_recipe`, it may be one that another version of the lab converted.
    """
    manifest = read(directory)
    if manifest is None:
        return f"{MANIFEST} is missing or unreadable"
    if manifest.model_id != spec.MODEL_ID or set(manifest.files) != set(spec.MODEL_FILES):
        return f"{MANIFEST} is that of another model"
    if manifest.recipe != spec.RECIPE and not any_recipe:
        return "it was prepared by another version of foundry-lab"
    for name, record in manifest.files.items():
        file = directory / name
        try:
            status = file.stat()
            if status.st_size != record.size:
                return f"{name} has {status.st_size:,} bytes instead of {record.size:,}"
            # Whole seconds, as container images and USB sticks keep no finer ones.
            untouched = int(status.st_mtime) == record.mtime and not full
            if not untouched and sha256_of(file) != record.sha256:
                return f"{name} is damaged: its SHA-256 is not that of {MANIFEST}"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
    return None
