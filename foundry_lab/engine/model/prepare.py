"""Preparing the model, finding it, removing it; and what it must consist of, so that damage is noticed."""

import contextlib
from importlib.util import find_spec
from pathlib import Path

import msgspec

from foundry_lab._ground.files import force_to_disk, patiently, write_whole
from foundry_lab.engine import spec
from foundry_lab.engine.model.fetch import fetch_gguf, remove_downloads
from foundry_lab.engine.model.genai import write_config
from foundry_lab.engine.paths import SHARED_VARIABLE, model_dir, shared_models
from foundry_lab.engine.private import exclusive, model_parts, require_space, sha256_of, using_home, workspace
from foundry_lab.engine.spec import PreparedModel
from foundry_lab.errors import EngineError

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


def prepare_model(*, progress: bool = True, force: bool = False) -> PreparedModel:
    """Fetch the model and convert it, unless it is ready.

    A damaged model is prepared anew. A process that is killed meanwhile leaves nothing that could be taken
    for a model; a complete download is kept for the next attempt.

    Args:
        progress: show bars.
        force: prepare it even if it is ready.

    Raises:
        EngineError: it can't be fetched or written; the message says what to do.
    """
    if not force and (model := find_prepared()):
        return model
    refuse_shared()
    with exclusive():
        # Another process may have done it while we waited for the lock.
        if not force and (model := find_prepared()):
            return model
        _require_converter()
        gguf = fetch_gguf(progress=progress)
        with workspace() as work:
            require_space(spec.MODEL_SIZE, "The converted model")
            built = work / "model"
            built.mkdir()
            _convert(gguf, built, progress=progress)
            model = install(built, work)
        # The model is ready; a download that can't be removed just now is no reason to fail.
        with contextlib.suppress(OSError):
            remove_downloads()
        return model


def find_prepared() -> PreparedModel | None:
    """Return the prepared model if it is there and whole, going by sizes and times."""
    return next((model for model in prepared_models() if not model.problem), None)


def prepared_models(*, full: bool = False) -> list[PreparedModel]:
    """Return what is in the cache, damaged or not; `problem` says which.

    Args:
        full: compare the hash of every file, not only its size and time.

    Raises:
        EngineError: the lab's own folder can't be looked at.
    """
    with using_home():
        if shared_models() is None and not model_dir().is_dir():
            return []
    manifest = read_manifest(model_dir())
    problem = problem_of(model_dir(), full=full)
    size = sum(record.size for record in manifest.files.values()) if manifest else 0
    return [PreparedModel(spec.MODEL_ID, spec.ALIAS, model_dir(), size, problem)]


def write_manifest(directory: Path) -> None:
    """Describe the model's files in manifest.json, whole or not at all. Raises OSError if one is missing."""
    files = {}
    for name in spec.MODEL_FILES:
        status = (directory / name).stat()
        files[name] = FileRecord(status.st_size, sha256_of(directory / name), int(status.st_mtime))
    manifest = Manifest(spec.MODEL_ID, spec.RECIPE, files)
    write_whole(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def read_manifest(directory: Path) -> Manifest | None:
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
    manifest = read_manifest(directory)
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


def remove_model() -> bool:
    """Remove the prepared model and what was fetched for it; return whether there was one.

    Raises:
        EngineError: its files are in use or not ours to remove.
    """
    refuse_shared()
    with exclusive():
        remove_downloads()
        if not model_dir().exists():
            return False
        with workspace() as trash:
            patiently(model_dir().rename, trash / "removed")
        return True


def install(built: Path, work: Path) -> PreparedModel:
    """Describe a complete model and put it in its place; what was there goes to the workspace.

    Raises:
        OSError: it can't be put there; then the old one still is.
    """
    write_manifest(built)
    write_config(built)
    for file in built.iterdir():
        with file.open("rb+") as written:
            force_to_disk(written.fileno())
    place = model_dir()
    place.parent.mkdir(parents=True, exist_ok=True)
    replaced = patiently(place.rename, work / "replaced") if place.exists() else None
    try:
        patiently(built.rename, place)
    except OSError:
        if replaced:
            patiently(replaced.rename, place)
        raise
    for part in model_parts():  # nobody else may change them, whatever the umask allowed
        part.chmod(part.stat().st_mode & ~0o022)
    return prepared_models()[0]


def refuse_shared() -> None:
    """Raise EngineError if the model isn't ours to make, replace or remove."""
    if folder := shared_models():
        problem = problem_of(model_dir()) or "it is ready"
        raise EngineError(
            f"{SHARED_VARIABLE} names {folder}, which is only read here; of the model there: {problem}. Ask "
            f"who looks after that folder to put one there that `foundry-lab model prepare` made with this "
            f"version, or unset {SHARED_VARIABLE} to have one of your own."
        )


def _require_converter() -> None:
    """Say before the download what is missing after it. A machine with an imported model does without."""
    if missing := [name for name in ("gguf", "onnx") if find_spec(name) is None]:
        names = " ".join(missing)
        raise EngineError(
            f"The model can't be converted here: a package that does it isn't installed (missing: {names}). "
            f"Either: python -m pip install {names}. Or take a model that was converted elsewhere: "
            "foundry-lab model import FILE"
        )


def _convert(gguf: Path, directory: Path, *, progress: bool) -> None:
    from gguf import GGUFReader

    from foundry_lab.engine.model.convert import write_model
    from foundry_lab.engine.model.tokenizer import write_configuration

    reader = GGUFReader(gguf)
    write_model(reader, directory, progress=progress)
    write_configuration(reader, directory)
