"""Draws one picture and shows how it comes about.

Run it against a cluster, for example the one that `triptych up` starts:
    python examples/generate.py "a red circle on a blue background" --target 127.0.0.1:7843
"""

import argparse

from triptych import Accepted, Client, Event, StepCompleted, TriptychError


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw one picture.")
    parser.add_argument("prompt")
    parser.add_argument("--target", default="127.0.0.1:7843")
    parser.add_argument("--output", default="picture.png")
    arguments = parser.parse_args()

    with Client(arguments.target) as client:
        try:
            generation = client.generate(arguments.prompt, steps=20, on_event=show)
        except TriptychError as error:
            raise SystemExit(f"{error.reason}: {error}") from error

    path = generation.save(arguments.output)
    print(f"{path}: seed {generation.seed}, {generation.total_seconds:.2f} s")
    for timing in generation.stage_timings:
        print(f"  {timing.stage}: {timing.run_seconds:.3f} s")


def show(event: Event) -> None:
    match event:
        case Accepted(parameters=parameters):
            print(f"{parameters.model}, {parameters.width}x{parameters.height}")
        case StepCompleted(step=step, total_steps=total, sigma=sigma):
            print(f"step {step}/{total}, sigma {sigma:.3f}")


if __name__ == "__main__":
    main()
