"""The command line: `python -m tools.demo_model build|continue|judge`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from tools.demo_model.phases import DitOptions, VaeOptions, build_model, continue_model
from tools.demo_model.process import LOG_FORMAT, steady_process
from tools.demo_model.scoring import (
    contact_sheet,
    load_pipeline,
    prompt_sets,
    score,
    table_header,
    table_row,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one verb."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    options = _parser().parse_args(arguments)
    if options.verb == "judge":
        _judge(options)
    elif options.verb == "continue":
        continue_model(options.source, _dit_options(options))
    else:
        build_model(
            VaeOptions(
                steps=options.vae_steps,
                decoder_steps=options.decoder_steps,
                statistics_pictures=options.statistics_pictures,
            ),
            _dit_options(options),
        )


def _judge(options: argparse.Namespace) -> None:
    """Prints the score table of a model directory and saves the first set's contact sheet."""
    steady_process()
    pipeline = load_pipeline(options.model, options.device)
    print(table_header(), flush=True)
    for position, prompts in enumerate(prompt_sets()):
        results = score(pipeline, prompts, options.seed)
        print(table_row(prompts, results), flush=True)
        if options.misses:
            wrong = [result.caption for result in results if not result.verdict.correct]
            print("\n".join(f"  X {caption}" for caption in wrong), flush=True)
        if position == 0 and options.sheet is not None:
            # A palette keeps flat pictures small without visible loss.
            contact_sheet(results).quantize(256).save(options.sheet, optimize=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="make the model from nothing")
    build.add_argument("--vae-steps", type=int, default=3000)
    build.add_argument("--decoder-steps", type=int, default=3000)
    build.add_argument("--statistics-pictures", type=int, default=512)
    resume = verbs.add_parser("continue", help="train an exported model further")
    resume.add_argument("--from", dest="source", type=Path, required=True)
    for verb, steps, peak in ((build, 6000, 2e-3), (resume, 4000, 1e-3)):
        _add_training(verb, steps, peak)
    judge = verbs.add_parser("judge", help="score an exported model")
    judge.add_argument("--model", type=Path, required=True)
    judge.add_argument("--sheet", type=Path, help="where to save a contact sheet (PNG)")
    judge.add_argument("--misses", action="store_true", help="list the prompts judged wrong")
    for verb in (build, resume, judge):
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def _add_training(verb: argparse.ArgumentParser, steps: int, peak: float) -> None:
    verb.add_argument("--out", type=Path, required=True, help="model directory to write")
    verb.add_argument("--work", type=Path, required=True, help="directory for checkpoints")
    verb.add_argument("--processes", type=int, default=2, help="one thread each; 1 with cuda")
    verb.add_argument("--pictures", type=int, default=48_000, help="size of the training set")
    verb.add_argument("--steps", type=int, default=steps, help="steps of the transformer")
    verb.add_argument("--minutes", type=float, help="end the transformer's training by the clock")
    verb.add_argument("--batch", type=int, default=32, help="pictures per process and step")
    verb.add_argument("--peak", type=float, default=peak, help="peak learning rate")
    verb.add_argument("--no-compile", dest="compiled", action="store_false")


def _dit_options(options: argparse.Namespace) -> DitOptions:
    if options.device == "cuda" and options.processes != 1:
        raise SystemExit("with --device cuda, use --processes 1")
    return DitOptions(
        out=options.out,
        work=options.work,
        seed=options.seed,
        device=options.device,
        processes=options.processes,
        pictures=options.pictures,
        steps=options.steps,
        minutes=options.minutes,
        batch=options.batch,
        peak=options.peak,
        compiled=options.compiled,
    )


if __name__ == "__main__":
    main()
