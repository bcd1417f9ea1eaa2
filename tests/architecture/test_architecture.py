import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.generate_protos import generate
from triptych.domain.family_options import GROUPS

ROOT = Path(__file__).parents[2]
PACKAGES = ["triptych", "services", "encoder_service", "denoiser_service", "vae_service"]
GENERATED = ROOT / "triptych" / "v1"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

MAX_ROUTE_FILES = 10

LIGHT_PROCESSES = {
    "gateway": ["services.gateway.__main__", "services.rpc.stage_clients"],
    "client": ["triptych", "triptych.client", "triptych.aio", "triptych.cli"],
    "denoiser": [
        "denoiser_service.__main__",
        "denoiser_service.rank_group.supervisor",
        "denoiser_service.service.servicer",
        "denoiser_service.service.scheduler",
    ],
}

NOUNS = {
    "domain": [
        f"triptych.domain.{file.stem}"
        for file in sorted((ROOT / "triptych" / "domain").glob("*.py"))
        if file.stem != "__init__"
    ],
    "codec": ["triptych.codec.tables"],
}


def _written(*folders: str) -> list[Path]:
    files = (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    return [file for file in files if GENERATED not in file.parents]


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), file.name)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _public(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in tree.body:
        named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, named) and not node.name.startswith("_"):
            yield node


ALL = [*PACKAGES, "tools", "tests", "benchmarks", "examples"]


def test_there_is_something_to_look_at() -> None:
    assert len(_written(*PACKAGES)) > 50
    assert GENERATED.is_dir()


def test_imports_keep_to_their_layers() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("modules", LIGHT_PROCESSES.values(), ids=LIGHT_PROCESSES)
def test_processes_without_a_model_never_load_torch(modules: list[str]) -> None:
    # import_module() is invisible to the linter; what a process has loaded is not.
    program = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("modules", NOUNS.values(), ids=NOUNS)
def test_nouns_are_light(modules: list[str]) -> None:
    forbidden = {"grpc", "torch", "pydantic", "PIL", "rich", "typer", "numpy"}
    program = (
        f"import sys, {', '.join(modules)}\n"
        f"heavy = {forbidden} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_a_public_noun_loads_no_grpc() -> None:
    program = (
        "import sys, triptych\n"
        "triptych.TeaCache(), triptych.GenerationRequest(prompt='x'), triptych.Generation\n"
        "sys.exit('loaded grpc' if 'grpc' in sys.modules else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = {file.name: file.read_text() for file in (tmp_path / "triptych" / "v1").iterdir()}
    committed = {file.name: file.read_text() for file in GENERATED.iterdir() if "_pb2" in file.name}
    assert fresh.keys() == committed.keys()
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, "run `make protos`"


def test_no_file_is_longer_than_allowed() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in _written(*ALL)}
    assert {file: length for file, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_allowed() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{each.lineno} {each.name}"
        for file in _written(*ALL)
        for each in _functions(_tree(file))
        if each.end_lineno is not None and each.end_lineno - each.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_is_a_drawer_for_anything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [file for file in _written(*ALL) if drawers & {file.stem, file.parent.name}] == []


def test_every_module_and_everything_public_in_it_says_what_it_is() -> None:
    mute = [
        f"{file.relative_to(ROOT)} {getattr(each, 'name', '')}"
        for file in _written(*PACKAGES)
        for tree in [_tree(file)]
        for each in [tree, *_public(tree)]
        if ast.get_docstring(each) is None
    ]
    assert mute == []


def test_no_broad_except_but_at_edges_and_around_previews() -> None:
    # A call's edge to the wire, a job's to its ledger, a stream's to its reader and a rank's to its
    # supervisor; what nobody needs, which must not cost the result; what only cleans up; and what
    # libraries raise for a model's files.
    edges = {"services/rpc/interceptors.py", "denoiser_service/rank/executor.py"}
    edges |= {"services/gateway/runner.py", "services/gateway/delivery.py"}
    allowed = edges | {"services/gateway/previews.py", "denoiser_service/rank/stored_previews.py"}
    allowed |= {"services/model_files/modules.py"}
    broad = {
        str(file.relative_to(ROOT))
        for file in _written(*PACKAGES)
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(each, ast.Raise) and each.exc is None for each in node.body)
    }
    assert broad == allowed


def test_nothing_is_left_for_later() -> None:
    left = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in _written(*ALL)
        if file != Path(__file__)
        for word in ("TODO", "FIXME", "XXX", "NotImplementedError")
        if word in file.read_text()
    ]
    assert left == []


def test_no_domain_gateway_or_stage_tells_one_familys_options_from_anothers() -> None:
    kinds = {kind.__name__ for kind in GROUPS.values()}
    folders = ["triptych/domain", "services/gateway", "services/loaded_models"]
    stages = ["encoder_service", "denoiser_service", "vae_service"]
    assert [
        f"{file.relative_to(ROOT)}: {node.id}"
        for file in _written(*folders, *stages)
        if file.name != "family_options.py"
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.Name) and node.id in kinds
    ] == []


def test_the_route_of_one_step_goes_through_ten_files_that_are_there() -> None:
    said = (ROOT / "docs" / "architecture.md").read_text()
    route = said.partition("### The route of one step")[2].partition("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w/]+\.py)`", route, re.MULTILINE)
    assert len(set(files)) == len(files) <= MAX_ROUTE_FILES
    assert files[0].endswith("servicer.py")
    for file in files:
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize(("field", "kind"), [("num_images", "int|options"), ("output", "OutputO")])
def test_a_request_field_is_declared_in_at_most_four_files(field: str, kind: str) -> None:
    # By hand: a message's field, an attribute or a parameter with its type, the flag of a command.
    flag = field.title().replace("_", "")
    declared = re.compile(
        rf"^ +(\w+ )*{field} = \d+;|^ +{field}: .*({kind})|^{flag} = Annotated", re.MULTILINE
    )
    sources = [*_written(*PACKAGES), *sorted((ROOT / "protos").rglob("*.proto"))]
    declaring = [file for file in sources if declared.search(file.read_text())]
    assert {"generation.proto", "generation.py"} <= {file.name for file in declaring}
    assert len(declaring) <= 4, declaring


def test_tests_of_a_file_go_to_the_same_process(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput"):
        pytest.skip("all tests run in one process")
    assert request.node.nodeid.endswith("@architecture/test_architecture.py")
