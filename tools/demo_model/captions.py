"""Scenes and their captions: what is in a picture, and the ways to say it."""

from dataclasses import dataclass

import numpy as np

from tools.demo_model.shapes import PALETTE, SHAPES, Item, Rgb

COLOURS = tuple(PALETTE)
KINDS = ("single", "pair", "count")
RELATIONS = ("above", "below", "to the left of", "to the right of", "and")
OPPOSITE = {
    "above": "below",
    "below": "above",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "and": "and",
}
NUMBERS = {2: "two", 3: "three"}
SIZE_WORDS = {"small": ("small",), "large": ("large", "big")}
SIZE_RADII = {"default": (35.0, 38.0), "small": (19.0, 21.0), "large": (51.0, 53.0)}
"""Radii in pixels. Low jitter throughout: with high jitter the shapes stay blobs."""

CENTRE_JITTER = {"single": 3.0, "pair": 2.0, "count": 1.5}
COLOUR_JITTER = 5


@dataclass(frozen=True)
class Thing:
    """A coloured shape as a caption names it."""

    shape: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows, independent of pixels and of wording.

    A pair lists its things as the caption does: the first is `relation` the second.
    """

    kind: str
    things: tuple[Thing, ...]
    background: str
    size: str = "default"
    size_word: str = ""
    relation: str = ""
    count: int = 1

    def in_space(self) -> tuple[Thing, ...]:
        """Every drawn thing, from left to right or from top to bottom."""
        if self.kind == "count":
            return self.things * self.count
        if self.relation in ("below", "to the right of"):
            return self.things[::-1]
        return self.things


@dataclass(frozen=True)
class Mix:
    """How often each kind of scene is sampled; the shares add up to one."""

    single: float = 0.40
    pair: float = 0.34
    count: float = 0.26


def sample_scene(rng: np.random.Generator, kind: str) -> Scene:
    """Draws a random scene of one kind; no thing ever has the colour of the background.

    Args:
        rng: The source of every choice.
        kind: One of `KINDS`.
    """
    background = _sample_background(rng)
    allowed = [colour for colour in COLOURS if colour != background]
    things = tuple(
        Thing(str(rng.choice(SHAPES)), str(rng.choice(allowed)))
        for _ in range(2 if kind == "pair" else 1)
    )
    if kind == "pair":
        return Scene(kind, things, background, relation=str(rng.choice(RELATIONS)))
    if kind == "count":
        return Scene(kind, things, background, count=int(rng.choice([2, 3, 3])))
    if kind != "single":
        raise ValueError(f"unknown kind of scene {kind!r}; known: {', '.join(KINDS)}")
    if rng.random() < 0.3:
        size = str(rng.choice(list(SIZE_WORDS)))
        word = str(rng.choice(SIZE_WORDS[size]))
        return Scene(kind, things, background, size=size, size_word=word)
    return Scene(kind, things, background)


def sample_kind(rng: np.random.Generator, mix: Mix) -> str:
    """Picks a kind of scene with the shares of `mix`."""
    return str(rng.choice(KINDS, p=[mix.single, mix.pair, mix.count]))


def place(rng: np.random.Generator, scene: Scene) -> tuple[Rgb, tuple[Item, ...]]:
    """Turns a scene into something to draw, with a little jitter of place, size and colour.

    Returns:
        The background colour and the items, in the order of `Scene.in_space`.
    """
    spots, radii = _layout(scene)
    jitter = CENTRE_JITTER[scene.kind]
    items = []
    rgb_of = {thing: _jitter_colour(rng, thing.colour) for thing in scene.things}
    for thing, (x, y) in zip(scene.in_space(), spots, strict=True):
        dx, dy = rng.uniform(-jitter, jitter, size=2)
        radius = float(rng.uniform(*radii))
        items.append(Item(thing.shape, rgb_of[thing], x + dx, y + dy, radius))
    return _jitter_colour(rng, scene.background), tuple(items)


def describe(scene: Scene, *, articles: bool = True, background_first: bool = False) -> str:
    """Says what the scene shows.

    Args:
        scene: What to describe.
        articles: With False, "red heart" instead of "a red heart".
        background_first: With True, "on a blue background, a red heart".
    """
    subject = _subject(scene, articles=articles)
    # A white background is the one nobody asks for: it goes unsaid.
    if scene.background == "white":
        return subject
    ground = f"on {_noun(f'{scene.background} background', articles=articles)}"
    return f"{ground}, {subject}" if background_first else f"{subject} {ground}"


def vary(rng: np.random.Generator, scene: Scene) -> str:
    """One of the many captions a picture of the scene may be trained with."""
    draw = rng.random()
    if _is_simple(scene) and rng.random() < 0.2:
        caption = _shorten(rng, scene.things[0])
    elif draw < 0.66:
        caption = describe(scene)
    elif draw < 0.84:
        caption = describe(scene, articles=False)
    else:
        caption = describe(_retell(scene), background_first=bool(rng.random() < 0.5))
    if rng.random() < 0.15:
        caption = caption[0].upper() + caption[1:]
    if rng.random() < 0.15:
        caption += "."
    return caption


def held_out(seed: int, quota: dict[str, int]) -> list[Scene]:
    """Distinct scenes for judging, drawn from a stream that training never uses.

    Args:
        seed: Seed of the stream.
        quota: Number of scenes by kind.
    """
    rng = np.random.default_rng([seed, 0x0DD])
    scenes: list[Scene] = []
    for kind, wanted in quota.items():
        chosen: dict[str, Scene] = {}
        while len(chosen) < wanted:
            scene = sample_scene(rng, kind)
            chosen.setdefault(describe(scene), scene)
        scenes.extend(chosen.values())
    return scenes


def _sample_background(rng: np.random.Generator) -> str:
    """White (unsaid) for three pictures in ten, else one of the named colours."""
    if rng.random() < 0.3:
        return "white"
    return str(rng.choice([colour for colour in COLOURS if colour != "white"]))


def _layout(scene: Scene) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Centres and range of radii, in pixels."""
    if scene.kind == "count" and scene.count == 3:
        return [(22.0, 64.0), (64.0, 64.0), (106.0, 64.0)], (16.5, 17.5)
    if scene.relation in ("above", "below"):
        return [(64.0, 32.0), (64.0, 96.0)], (23.5, 25.0)
    if scene.kind != "single":
        return [(32.0, 64.0), (96.0, 64.0)], (23.5, 25.0)
    return [(64.0, 64.0)], SIZE_RADII[scene.size]


def _jitter_colour(rng: np.random.Generator, name: str) -> Rgb:
    red, green, blue = (
        int(np.clip(value + rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1), 0, 255))
        for value in PALETTE[name]
    )
    return red, green, blue


def _subject(scene: Scene, *, articles: bool) -> str:
    if scene.kind == "count":
        thing = scene.things[0]
        plural = f"{thing.shape}es" if thing.shape == "cross" else f"{thing.shape}s"
        return f"{NUMBERS[scene.count]} {thing.colour} {plural}"
    nouns = [
        _noun(f"{scene.size_word} {thing.colour} {thing.shape}".strip(), articles=articles)
        for thing in scene.things
    ]
    return f" {scene.relation} ".join(nouns)


def _noun(words: str, *, articles: bool) -> str:
    if not articles:
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _retell(scene: Scene) -> Scene:
    """The same picture told from the other thing's side: "b below a" for "a above b"."""
    if scene.kind != "pair":
        return scene
    return Scene(
        scene.kind,
        # "and" reads from left to right, so turning it round would describe another picture.
        scene.things if scene.relation == "and" else scene.things[::-1],
        scene.background,
        relation=OPPOSITE[scene.relation],
    )


def _is_simple(scene: Scene) -> bool:
    """Whether naming the colour or the shape alone may stand for the whole picture."""
    return scene.kind == "single" and scene.size == "default" and scene.background == "white"


def _shorten(rng: np.random.Generator, thing: Thing) -> str:
    """Names only the colour or only the shape."""
    return str(rng.choice([thing.colour, thing.shape, f"a {thing.shape}"]))
