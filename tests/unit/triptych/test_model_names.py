import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.cli.app import app
from triptych.cli.local_cluster import check_names
from triptych.cluster.errors import ClusterConfigurationError


def _model(folder: Path, name: str | None = None) -> Path:
    folder.mkdir(parents=True)
    if name is not None:
        (folder / "triptych.json").write_text(json.dumps({"name": name}))
    return folder


def test_two_models_of_one_name_are_refused_before_anything_starts(tmp_path: Path) -> None:
    models = [_model(tmp_path / each / "painter") for each in ("base", "fine")]
    ended = CliRunner().invoke(app, ["up", *(f"--model={each}" for each in models)])
    assert ended.exit_code == 2
    assert f"{models[0]} and {models[1]} would both be served as painter" in ended.output


def test_what_a_model_calls_itself_counts(tmp_path: Path) -> None:
    base, fine = _model(tmp_path / "base" / "a"), _model(tmp_path / "fine" / "a", "b")
    check_names([base, fine])
    with pytest.raises(ClusterConfigurationError, match="as b;"):
        check_names([base, fine, "somebody/b@main"])
