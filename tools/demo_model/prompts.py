"""The prompts a model is judged on, and the way back from a plain caption to its scene."""

import re

from tools.demo_model.captions import (
    NUMBERS,
    RELATIONS,
    SIZE_WORDS,
    Scene,
    Thing,
    describe,
    held_out,
)
from tools.demo_model.shapes import PALETTE, SHAPES

FORTY = (
    "a yellow square on a purple background",
    "a black square on a green background",
    "a pink star on a green background",
    "a black circle on an orange background",
    "a brown moon",
    "a pink moon",
    "a blue square on a brown background",
    "a purple circle",
    "a blue moon",
    "a green cross",
    "an orange ring on a blue background",
    "a black diamond on a green background",
    "a blue square",
    "a big yellow square on a pink background",
    "a white square on a red background",
    "a white star on a brown background",
    "a black star on an orange background",
    "a yellow star on a blue background",
    "a red moon",
    "a blue cross on a red background",
    "a small orange circle on a pink background",
    "a yellow triangle on a red background",
    "a green cross to the left of a green heart on an orange background",
    "a white heart above a blue circle on an orange background",
    "a yellow heart above a black circle on a blue background",
    "a yellow square to the right of a blue house on a brown background",
    "a brown triangle to the left of a white cross on an orange background",
    "a white cross above a brown star on a black background",
    "a pink star below an orange triangle",
    "a purple heart to the left of a yellow square on a brown background",
    "a black diamond above a white square on a red background",
    "an orange ring above a blue cross on a purple background",
    "three brown houses on a red background",
    "three red diamonds on a blue background",
    "three green crosses on a pink background",
    "three green houses",
    "three blue circles",
    "three red triangles on a blue background",
    "three pink hearts on a brown background",
    "three pink moons on a yellow background",
)
"""The first set: 22 singles, 10 pairs, 8 counts. It never changes, so scores stay comparable."""

VARIANTS = (
    "red heart",
    "Purple star",
    "green house on yellow background",
    "A big green star.",
    "small blue circle on pink background",
    "on a blue background, a red circle",
    "on a purple background, a white moon",
    "yellow ring",
    "Three red stars.",
    "two pink squares on black background",
    "a blue square below a red circle",
    "red circle above blue square",
    "on an orange background, a black cross to the left of a white heart",
    "white diamond on brown background",
    "Orange triangle on a blue background.",
    "two green hearts",
)
"""Other wordings of the same scenes; `parse` understands them as well."""

_GROUND_FIRST = re.compile(r"^on (?:an? )?(\w+) background, (.+)$")
_GROUND_LAST = re.compile(r"^(.+) on (?:an? )?(\w+) background$")


def hundred_sixty(seed: int = 2026) -> list[Scene]:
    """The second set: 88 singles, 40 pairs and 32 counts, none of them in the first."""
    scenes = held_out(seed, {"single": 110, "pair": 50, "count": 40})
    quota = {"single": 88, "pair": 40, "count": 32}
    chosen = []
    for scene in scenes:
        if quota[scene.kind] and describe(scene) not in FORTY:
            quota[scene.kind] -= 1
            chosen.append(scene)
    return chosen


def parse(caption: str) -> Scene:
    """Reads a caption in any of the wordings that `captions.describe` writes.

    Raises:
        ValueError: The caption is not such a wording.
    """
    words = caption.strip().removesuffix(".")
    words = words[:1].lower() + words[1:]
    background = "white"
    if match := _GROUND_FIRST.match(words):
        background, words = match.groups()
    elif match := _GROUND_LAST.match(words):
        words, background = match.groups()
    if background not in PALETTE:
        raise ValueError(f"unknown background in {caption!r}")
    number, _, rest = words.partition(" ")
    for count, name in NUMBERS.items():
        if number == name:
            return Scene("count", (_thing(_singular(rest)),), background, count=count)
    for relation in RELATIONS:
        first, found, second = words.partition(f" {relation} ")
        if found:
            pair = (_thing(first), _thing(second))
            return Scene("pair", pair, background, relation=relation)
    return _single(words, background)


def _single(words: str, background: str) -> Scene:
    words = _bare(words)
    first, _, rest = words.partition(" ")
    for size, synonyms in SIZE_WORDS.items():
        if first in synonyms:
            return Scene("single", (_thing(rest),), background, size=size, size_word=first)
    return Scene("single", (_thing(words),), background)


def _bare(words: str) -> str:
    return re.sub(r"^an? ", "", words)


def _singular(words: str) -> str:
    return words.removesuffix("es") if words.endswith("crosses") else words.removesuffix("s")


def _thing(words: str) -> Thing:
    colour, _, shape = _bare(words).partition(" ")
    if colour not in PALETTE or shape not in SHAPES:
        raise ValueError(f"no coloured shape in {words!r}")
    return Thing(shape, colour)
