"""Many prompts, each result on disk before it counts: stop it with Ctrl-C, run it again, and it goes on.
    python examples/batch_processing.py notebooks/data/messages.csv verdicts.jsonl
The table needs a column "text". Results go into the second file."""

import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from foundry_lab import FoundryError, SyncFoundryAPIClient

TEMPLATE = "Classify the customer's message as praise, complaint or question.\n\nMessage: {text}"


class Verdict(msgspec.Struct):
    kind: Literal["praise", "complaint", "question"]


def main(table: Path, output: Path) -> None:
    task = {"template": TEMPLATE, "response_model": Verdict, "max_tokens": 20, "temperature": 0}
    with SyncFoundryAPIClient() as client:
        report = client.complete_batch(table, output=output, **task)
    print(report)
    kinds = Counter()
    for result in report.results():
        kinds[result.error.code if result.error else result.completion.parsed.kind] += 1
    print(kinds)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except FoundryError as error:
        sys.exit(str(error))
