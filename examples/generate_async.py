"""Asks for several pictures at once.

The denoiser finishes the oldest first, unless its `--order` says otherwise, while others are
encoded and decoded. Run it against a cluster, for example the one that `triptych up` starts:
    python examples/generate_async.py "a red circle" "a green star" --target 127.0.0.1:7843
"""

import argparse
import asyncio
from pathlib import Path

from triptych import AsyncClient, Generation, TriptychError


async def main() -> None:
    parser = argparse.ArgumentParser(description="Draw several pictures at once.")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--target", default="127.0.0.1:7843")
    parser.add_argument("--directory", type=Path, default=Path())
    arguments = parser.parse_args()

    async with AsyncClient(arguments.target) as client:
        # One request that fails does not end the others.
        drawn = await asyncio.gather(
            *(client.generate(prompt, seed=7) for prompt in arguments.prompts),
            return_exceptions=True,
        )

    for number, (prompt, outcome) in enumerate(zip(arguments.prompts, drawn, strict=True)):
        match outcome:
            case Generation():
                path = outcome.save(arguments.directory / f"picture-{number}.png")
                print(f"{path}: {prompt}, {outcome.total_seconds:.2f} s")
            case TriptychError():
                print(f"{prompt}: {outcome.reason}: {outcome}")
            case BaseException():
                raise outcome


if __name__ == "__main__":
    asyncio.run(main())
