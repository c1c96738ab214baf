"""Named commands for contributors: `nox -l` lists them, `nox -s lint` runs one.

Each session has a virtual environment of its own; `nox -R -s unit` uses the last one again as it is.
"""

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

nox.options.sessions = ["lint", "unit"]
nox.options.default_venv_backend = "venv"


def install(session: nox.Session) -> None:
    session.install("-e", ".[test]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, layers, and the workflow files."""
    install(session)
    session.run("python", "-m", "pytest", "tests/test_quality.py", "tests/test_layers.py", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """Everything: README's test command."""
    install(session)
    session.run("python", "-m", "pytest", "-n", "3", *session.posargs)


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """The tests that need no service, on every Python that is installed."""
    install(session)
    session.run("python", "-m", "pytest", "tests/unit", *session.posargs)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Every notebook and its solutions, cell by cell against the stored outputs."""
    install(session)
    session.run("python", "-m", "pytest", *(session.posargs or ["notebooks"]))


@nox.session
def generate(session: nox.Session) -> None:
    """The notebooks, from notebooks/source: `nox -s generate -- 02 --execute`."""
    install(session)
    session.run("python", "notebooks/source/generate.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """One benchmark: `nox -s bench -- client_cost --rounds 31`."""
    install(session)
    name, *options = session.posargs or ["client_cost"]
    session.run("python", "-m", f"benchmarks.{name}", *options)
