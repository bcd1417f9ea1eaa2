"""What `import triptych` promises."""

import subprocess
import sys
from dataclasses import fields

import pytest

import triptych
from triptych.domain.generation import GenerationRequest, RequestOptions


def test_every_public_name_can_be_imported() -> None:
    for name in triptych.__all__:
        assert getattr(triptych, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Clint'"):
        _ = triptych.Clint


def test_keywords_are_the_fields_of_a_request() -> None:
    names = {field.name for field in fields(GenerationRequest)} - {"prompt"}
    assert names == set(RequestOptions.__annotations__)


def test_client_loads_neither_services_nor_torch() -> None:
    modules = "triptych.client, triptych.aio, triptych.cli.app, triptych.cluster.cluster"
    heavy = "{'torch', 'numpy', 'services', 'encoder_service', 'denoiser_service', 'vae_service'}"
    program = f"import sys, {modules}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_importing_the_package_alone_does_not_load_grpc() -> None:
    program = "import sys, triptych; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
