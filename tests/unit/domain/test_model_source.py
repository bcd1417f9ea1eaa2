from pathlib import Path

import pytest

from encoder_service.settings import EncoderSettings
from services.domain.model_source import HubModel, parse_model_source
from services.fused.settings import FusedSettings


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Qwen/Qwen-Image", HubModel("Qwen/Qwen-Image")),
        ("a/b.c@refs/pr/1", HubModel("a/b.c", "refs/pr/1")),
        ("./Qwen/Qwen-Image", Path("Qwen/Qwen-Image")),
        ("/Qwen/Qwen-Image", Path("/Qwen/Qwen-Image")),
        ("Qwen-Image", Path("Qwen-Image")),
        ("a/b/c", Path("a/b/c")),
        ("a/b@", Path("a/b@")),
        ("a/b@../../c", Path("a/b@../../c")),
        ("a/b@v1/../c", Path("a/b@v1/../c")),
        ("a/b" + "c" * 300, Path("a/b" + "c" * 300)),
        ("", Path()),
    ],
)
def test_a_name_with_one_slash_is_a_repository_and_anything_else_a_path(
    text: str, source: Path | HubModel
) -> None:
    assert parse_model_source(text) == source
    if isinstance(source, HubModel):
        assert str(source) == text


def encoder(*more: str) -> EncoderSettings:
    flags = ("--listen=x:1", "--store=memory:", "--cluster-secret-file=secret")
    return EncoderSettings.read([*flags, *more])


def test_a_stage_is_told_of_a_directory_or_of_a_repository(tmp_path: Path) -> None:
    assert encoder(f"--model={tmp_path}").model == tmp_path
    assert encoder("--model=Qwen/Qwen-Image@v1").model == HubModel("Qwen/Qwen-Image", "v1")


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_knows_whether_the_hub_may_be_asked(order: int) -> None:
    flags = ["--model=a/b", "--offline=true"]
    assert encoder(*flags[::order]).model == HubModel("a/b", offline=True)
    assert encoder("--model=a/b", "--offline=false").model == HubModel("a/b")


def test_the_environment_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_ENCODER_MODEL", "a/b@v1")
    monkeypatch.setenv("TRIPTYCH_ENCODER_OFFLINE", "true")
    assert encoder().model == HubModel("a/b", "v1", offline=True)


def test_the_fused_process_takes_both_kinds_together(tmp_path: Path) -> None:
    told = ["--listen=x:1", f"--model={tmp_path}", "--model=a/b", "--offline=true"]
    assert FusedSettings.read(told).model == (tmp_path, HubModel("a/b", offline=True))


def test_a_switch_that_is_neither_on_nor_off_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        encoder("--model=a/b", "--offline=perhaps")
    assert caught.value.code == 2
    assert "settings: offline: " in capsys.readouterr().err
