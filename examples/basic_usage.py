"""One question, one answer: what a completion holds, and an answer in a shape of your own."""

import sys
from typing import Literal

import msgspec

from foundry_lab import FoundryError, SyncFoundryAPIClient


class Verdict(msgspec.Struct):  # a pydantic model or a dataclass does as well
    kind: Literal["praise", "complaint", "question"]


def main() -> None:
    with SyncFoundryAPIClient() as client:
        answer = client.complete("Name three primary colours.", max_tokens=60, temperature=0)
        print(answer.content)
        print(f"[{answer.usage.total_tokens} tokens in {answer.latency_s:.2f} s by {answer.model}]")

        message = "Is this praise, a complaint or a question? Where does the ferry leave?"
        verdict = client.complete(message, response_model=Verdict, temperature=0).parsed
        print(f"[the message is a {verdict.kind}]")

        health = client.health_check()
        print(f"[the service is {health.status}, with {', '.join(health.loaded_models)} loaded]")


if __name__ == "__main__":
    try:
        main()
    except FoundryError as error:
        sys.exit(str(error))
