"""`python -m foundry_lab`: the `foundry-lab` command, for when scripts are not on the PATH."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, but a checkout may be run without pip
    sys.exit(
        f"Foundry Lab needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}). "
        "Install a newer Python and make a virtual environment with it."
    )

from foundry_lab.workbook.cli import main

if __name__ == "__main__":
    main(prog_name="foundry-lab")
