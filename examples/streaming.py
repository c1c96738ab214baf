"""Tokens as they arrive; the second stream is stopped early, and so is the work at the service."""

import asyncio
import sys

from foundry_lab import FoundryAPIClient, FoundryError

ENOUGH = 150  # characters


async def main() -> None:
    async with FoundryAPIClient() as client:
        stream = client.stream_complete("Write a haiku about rain.", max_tokens=60)
        async for chunk in stream:
            print(chunk.content, end="", flush=True)
        print(f"\n[first token after {stream.ttft_s:.2f} s, then {stream.tokens_per_s:.0f} tokens/s]\n")

        text = ""
        async with client.stream_complete("Tell me about the sea.", max_tokens=400) as stream:
            async for chunk in stream:
                print(chunk.content, end="", flush=True)
                text += chunk.content
                if len(text) >= ENOUGH:
                    break
        print(f"\n[stopped after {len(text)} characters]")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except FoundryError as error:
        sys.exit(str(error))
