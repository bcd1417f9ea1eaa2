"""Edits one picture in several ways; the picture is sent to the cluster once.

Run it against a cluster that serves an editing model, for example one started by
`triptych up --model DIRECTORY` with Qwen-Image-Edit's directory:
    python examples/edit.py cat.png "make it night" "add a hat" --target 127.0.0.1:7843
"""

import argparse
from pathlib import Path

from triptych import Client, TriptychError


def main() -> None:
    parser = argparse.ArgumentParser(description="Edit one picture in several ways.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("instructions", nargs="+")
    parser.add_argument("--target", default="127.0.0.1:7843")
    parser.add_argument("--model", help="needed where several models are served")
    parser.add_argument("--directory", type=Path, default=Path())
    arguments = parser.parse_args()

    with Client(arguments.target) as client:
        try:
            uploaded = client.upload_image(arguments.picture)
            print(f"{arguments.picture}: {uploaded.width}x{uploaded.height}")
            for number, instruction in enumerate(arguments.instructions):
                edited = client.generate(instruction, model=arguments.model, images=[uploaded])
                path = edited.save(arguments.directory / f"edited-{number}.png")
                print(f"{path}: {instruction}, {edited.width}x{edited.height}")
        except TriptychError as error:
            raise SystemExit(f"{error.reason}: {error}") from error


if __name__ == "__main__":
    main()
