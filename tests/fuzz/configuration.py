"""What an operator writes: settings, access files, cache profiles, a model's own files."""

import json
import math
import os
import shutil
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from denoiser_service.service.settings import DenoiserSettings
from encoder_service.settings import EncoderSettings
from services.domain.settings import ProcessSettings
from services.fused.settings import FusedSettings
from services.gateway.access import AccessList
from services.gateway.settings import GatewaySettings
from services.loaded_models.cache_profile import find_profile
from services.loaded_models.loading import describe_model
from services.model_families import find_family
from services.model_files.checksums import Checksums
from services.model_files.directory import CACHE_PROFILE, MANIFEST, ModelDirectory
from services.model_files.weights import check_weight_file
from services.tensor_store.opening import open_blob_store
from services.tensor_store.store_url import StoreUrl
from tests.checkpoints import MODELS, checkpoint
from tests.fuzz.campaign import OK, REFUSED_START, Target
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage
from vae_service.settings import VaeSettings

Draw = Callable[[st.SearchStrategy[Any]], Any]

_DEMO = Path(__file__).parents[2] / "models" / "demo"
_SETTINGS: tuple[type[ProcessSettings], ...] = (
    GatewaySettings,
    EncoderSettings,
    DenoiserSettings,
    VaeSettings,
    FusedSettings,
)
_SOUND = {
    "listen": "127.0.0.1:0",
    "encoder": '["a:1"]',
    "denoiser": '["b:1"]',
    "vae": '["c:1"]',
    "model": str(_DEMO),
    "store": "shm:///dev/shm/x",
    "cluster_secret_file": "secret",
}
_WORDS_OF_SETTINGS = (
    *("", "0", "1", "-1", "64", "true", "nan", "inf", "-inf", "1e400", "0.5", "30", "1e7"),
    *("null", "[]", "{}", '["a"]', "[[[[", "/", "a/b", "a/b@c", "20GiB", "1_000", "0x10"),
    *("127.0.0.1:0", "127.0.0.1:99999", "unix:", "redis://", "memory:", "float16", "debug"),
)
_VALUES = st.one_of(
    *[st.sampled_from(_WORDS_OF_SETTINGS)] * 3, st.text(string.printable, max_size=9)
)


def settings_target() -> Target:
    """Environments of all processes."""

    def attempt(given: tuple[type[ProcessSettings], Mapping[str, str], list[str]]) -> str:
        kind, environment, arguments = given
        said = StringIO()
        with _environment(environment), redirect_stderr(said):
            try:
                told: Iterable[tuple[str, object]] = kind.read(arguments)
                ended = OK
            except SystemExit as error:
                told, ended = (), f"exit {error.code}"
        assert "Traceback" not in said.getvalue()
        assert ended in {OK, REFUSED_START, "exit 0"}, ended
        # Nothing can be waited for, or added up, that has no end.
        assert all(math.isfinite(each) for _, each in told if isinstance(each, float)), told
        return ended

    return Target("settings", _told(), attempt, 8000)


@st.composite
def _told(draw: Draw) -> tuple[type[ProcessSettings], dict[str, str], list[str]]:
    kind = draw(st.sampled_from(_SETTINGS))
    prefix = kind.model_config.get("env_prefix", "")
    fields = list(kind.model_fields)
    told = {name: value for name, value in _SOUND.items() if name in fields}
    if kind is FusedSettings:
        told["model"] = json.dumps([told["model"]])
    names = st.sampled_from(fields)
    told |= draw(st.dictionaries(names, _VALUES, max_size=3))
    # No other process can be followed in a test.
    told["exit_with_parent"] = "0"
    # The environment has no room for a zero byte.
    given = {f"{prefix}{name.upper()}": value.replace("\0", "") for name, value in told.items()}
    if not draw(st.integers(0, 9)):
        given[f"{prefix}{draw(st.text(string.ascii_uppercase, min_size=1, max_size=5))}"] = "1"
    flags = draw(st.lists(st.tuples(names, _VALUES), max_size=1))
    arguments = [
        part
        for name, value in flags
        if name != "exit_with_parent"
        for part in (f"--{name.replace('_', '-')}", value.replace("\0", ""))
    ]
    return kind, given, arguments


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def store_url_target() -> Target:
    """Addresses of tensor stores; nothing is connected to or made."""
    schemes = st.sampled_from(
        ["memory:", "shm:///dev/shm/x", "http://a", "", "shm://", "memory://"]
    )
    options = st.sampled_from(["quota_bytes", "verify", "db", "", "quota_bytes=1&quota_bytes"])
    query = st.lists(st.tuples(options, _VALUES).map("=".join), max_size=2).map("&".join)
    texts = st.tuples(schemes, query).map("?".join) | st.text(max_size=20)

    def attempt(text: str) -> str:
        try:
            url = StoreUrl.parse(text)
            if url.scheme in {"shm", "redis", "rediss", "redis+unix"}:
                return OK
            open_blob_store(text).close()
        except ConfigurationError:
            return REFUSED_START
        return OK

    return Target("store URLs", texts, attempt, 4000)


_WORDS = st.sampled_from(["", "default", "a b", "0" * 64, "QwenImagePipeline", "diffusers", "\x00"])
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, 1, -1, 2**31, 2**70, 0.5, 1e308]), _WORDS
)
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3)
)
_NO_DOCUMENTS = (
    *(b"", b"null", b"[", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b'{"a": NaN}'),
    *(b"\xff\xfe{}", b"9" * 5000, b'{"a": 1, "a": 2}', b'{"name": "\\ud800"}'),
)
_TEXTS = st.sampled_from(_NO_DOCUMENTS) | st.binary(max_size=40)


@st.composite
def _document(draw: Draw, sound: Any) -> bytes:
    """A JSON file with a few values changed, or bytes that are none."""
    if not draw(st.integers(0, 9)):
        return draw(_TEXTS)
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        value = _replaced(draw, value)
    return json.dumps(value).encode()


def _replaced(draw: Draw, value: Any) -> Any:
    if not value or not isinstance(value, dict | list) or not draw(st.integers(0, 5)):
        return draw(_ANYTHING)
    places = list(value) if isinstance(value, dict) else range(len(value))
    place = draw(st.sampled_from(places))
    if not draw(st.integers(0, 5)):
        del value[place]
    elif isinstance(value, dict) and not draw(st.integers(0, 9)):
        value[draw(_WORDS)] = draw(_ANYTHING)
    else:
        value[place] = _replaced(draw, value[place])
    return value


def document_targets(directory: Path) -> list[Target]:
    """Files that processes read when they start.

    Args:
        directory: to write them in.
    """
    access = {
        "tenants": [
            {
                "name": "acme",
                "key_sha256": ["0" * 64],
                "quota": {"requests_per_minute": 1, "concurrent_jobs": 1},
            }
        ]
    }
    models = [checkpoint(name, directory) for name in MODELS]
    demo = directory / "demo"
    shutil.copytree(_DEMO, demo)
    profile = json.loads((demo / CACHE_PROFILE).read_bytes())
    return [
        _file_target("access files", access, directory / "access.json", AccessList.read),
        _file_target("cache profiles", profile, demo / CACHE_PROFILE, lambda _: _start(demo)),
        _manifest_target(directory / "SHA256SUMS"),
        _model_files_target([*models, demo]),
        _weights_target(demo / "vae" / "diffusion_pytorch_model.safetensors"),
    ]


def _manifest_target(file: Path) -> Target:
    """Lists of files and their SHA-256."""
    digests = st.sampled_from(["0" * 64, "0" * 63, "A" * 64, "f" * 64, ""])
    gaps = st.sampled_from(["  ", " *", " ", "\t"])
    names = st.sampled_from(["a", "./a", "a/b", "/a", "../a", "a/..", ".", "\\n"]) | st.text(
        max_size=5
    )
    line = st.tuples(digests, gaps, names).map("".join)
    texts = st.lists(line, max_size=4).map(lambda lines: "\n".join(lines).encode())

    def attempt(data: bytes) -> str:
        return _read_instead(file, data, Checksums.read)

    return Target("manifests", texts | st.binary(max_size=80), attempt, 3000)


def _model_files_target(models: list[Path]) -> Target:
    """The index, triptych.json and all configurations of every family's models."""
    files = []
    for model in models:
        manifest = model / MANIFEST
        manifest.write_text(json.dumps({"name": "painter", "defaults": {"steps": 8}}))
        files += [each for each in sorted(model.rglob("*.json")) if each.name != "tokenizer.json"]
    roots = {file: model for model in models for file in files if model in file.parents}
    documents = {file: _document(json.loads(file.read_bytes())) for file in files}

    def attempt(given: tuple[Path, bytes]) -> str:
        file, data = given
        return _read_instead(file, data, lambda _: _start(roots[file]))

    inputs = st.sampled_from(files).flatmap(lambda file: st.tuples(st.just(file), documents[file]))
    return Target("a model's files", inputs, attempt, 15_000)


def _weights_target(file: Path) -> Target:
    """Headers of weight files, damaged."""
    sound = file.read_bytes()[:20_000]

    def attempt(data: bytes) -> str:
        return _read_instead(file, data, check_weight_file)

    cut = st.integers(0, 20_000).map(lambda length: sound[:length])
    changed = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4)
    damaged = changed.map(lambda changes: _with_bytes(sound, changes))
    return Target("weight files", cut | damaged | st.binary(max_size=64), attempt, 3000)


def _with_bytes(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place] = value
    return bytes(changed)


def _start(model: Path) -> None:
    """What the stages of a model do before they load its weights."""
    directory = ModelDirectory(model)
    family = find_family(directory)
    for stage in Stage:
        family.spec.check(directory, stage)
    profile = find_profile(directory, family.spec)
    describe_model(directory, family, None, ElementType.FLOAT32, profile)


def _file_target(name: str, sound: object, file: Path, read: Callable[[Path], object]) -> Target:
    return Target(name, _document(sound), lambda data: _read_instead(file, data, read), 4000)


def _read_instead(file: Path, data: bytes, read: Callable[[Path], object]) -> str:
    """What comes of a file that holds something else for once."""
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(data)
    try:
        read(file)
    except ConfigurationError:
        return REFUSED_START
    finally:
        if before is not None:
            file.write_bytes(before)
    return OK
