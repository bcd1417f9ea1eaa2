"""Generates triptych/v1 from protos/triptych/v1, into the working tree or another directory.

python -m tools.generate_protos [OUTPUT_DIRECTORY]
"""

import sys
from importlib.resources import files as resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PROTOS = ROOT / "protos"
WELL_KNOWN = resources("grpc_tools") / "_proto"
TYPED_STUBS = Path(sys.executable).parent / "protoc-gen-mypy_grpc"


def generate(output: Path) -> None:
    """Writes messages for every file and service stubs for every file that has a service.

    Args:
        output: the directory that will hold `triptych/v1`.

    Raises:
        RuntimeError: protoc refused a file; it printed why.
    """
    files = sorted(PROTOS.rglob("*.proto"))
    services = [file for file in files if file.stem.endswith("_service")]
    # mypy-protobuf writes the stubs' types next to grpc's own code.
    stub_writers = [
        f"--plugin=protoc-gen-mypy_grpc={TYPED_STUBS}",
        f"--grpc_python_out={output}",
        f"--mypy_grpc_out={output}",
    ]
    _run([f"--python_out={output}", f"--pyi_out={output}"], files)
    _run(stub_writers, services)


def _run(writers: list[str], files: list[Path]) -> None:
    paths = [f"--proto_path={PROTOS}", f"--proto_path={WELL_KNOWN}"]
    arguments = ["protoc", *paths, *writers, *map(str, files)]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
