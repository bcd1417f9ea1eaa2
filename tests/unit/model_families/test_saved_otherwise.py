"""Directories as other tools and versions save them: served alike, or refused in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from services.loaded_models.loading import load_encoder, load_vae
from services.model_ports.encoding import encode_all
from services.model_ports.spec import OTHER_NAMES
from tests.checkpoints import checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationRequest, resolve

pytestmark = pytest.mark.slow

CPU = "cpu"
Change = Callable[[Path], object]


def encoded(model: Path) -> dict[str, torch.Tensor]:
    encoder = load_encoder(model, None, ElementType.FLOAT32, CPU)
    request = GenerationRequest(prompt="a red circle", seed=1)
    parameters = resolve(request, encoder.loaded.model, draw_seed=lambda: 0)
    return encode_all(encoder.model.encodings(parameters))


def rename(model: Path, **classes: str) -> None:
    """Has model_index.json name other classes."""
    index = model / "model_index.json"
    entries = json.loads(index.read_text())
    for component, name in classes.items():
        entries[component][1] = name
    index.write_text(json.dumps(entries))


@pytest.mark.parametrize("published", OTHER_NAMES)
def test_another_name_is_one_of_the_same_library(published: str) -> None:
    for other in OTHER_NAMES[published]:
        one, same = getattr(transformers, published), getattr(transformers, other)
        # Of processors the parts count, which are named in files of their own.
        assert one is same or issubclass(same, transformers.ProcessorMixin)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("qwen-image", {"tokenizer": "Qwen2TokenizerFast"}),
        ("flux.1-dev", {"tokenizer": "CLIPTokenizerFast", "tokenizer_2": "T5Tokenizer"}),
        ("qwen-image-layered", {"processor": "Qwen2_5_VLProcessor"}),
        ("wan2.2-t2v-a14b", {"tokenizer": "T5Tokenizer"}),
    ],
)
def test_classes_of_other_versions_are_served(
    name: str, classes: dict[str, str], tmp_path: Path
) -> None:
    model = checkpoint(name, tmp_path)
    rename(model, **classes)
    load_encoder(model, None, ElementType.FLOAT32, CPU)


def test_a_causal_model_serves_for_its_base_with_the_same_bits(tmp_path: Path) -> None:
    model = checkpoint("z-image-turbo", tmp_path)
    before = encoded(model)
    file = model / "text_encoder" / "model.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in load_file(file).items()}
    head = {"lm_head.weight": torch.ones_like(tensors["model.embed_tokens.weight"])}
    save_file(tensors | head, file, metadata={"format": "pt"})
    rename(model, text_encoder="Qwen3ForCausalLM")
    after = encoded(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    causal = transformers.Qwen3ForCausalLM.from_pretrained(model / "text_encoder")
    base = causal.base_model
    ids = torch.tensor([[1, 2, 3, 4]])
    layers = [
        each(input_ids=ids, output_hidden_states=True).hidden_states[-2] for each in (causal, base)
    ]
    assert torch.equal(*layers)


def test_a_causal_model_whose_pipeline_reads_what_it_lacks_is_refused(tmp_path: Path) -> None:
    model = checkpoint("ovis-image-7b", tmp_path)
    rename(model, text_encoder="Qwen3ForCausalLM")
    with pytest.raises(ConfigurationError, match=r"text_encoder is a Qwen3ForCausalLM; .* served"):
        load_encoder(model, None, ElementType.FLOAT32, CPU)


def _cut_merges(model: Path) -> None:
    vocabulary = json.loads((model / "tokenizer" / "tokenizer.json").read_text())["model"]
    (model / "tokenizer" / "tokenizer.json").unlink()
    (model / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (model / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\nc")


def _unknown_merge(model: Path) -> None:
    file = model / "tokenizer" / "tokenizer.json"
    values = json.loads(file.read_text())
    values["model"]["merges"].append(["never", "seen"])
    file.write_text(json.dumps(values))


def _quantised(model: Path) -> None:
    file = model / "text_encoder" / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantised))


def _pointer(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 11\n"
    )


def _variant(model: Path) -> None:
    folder = model / "text_encoder"
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cut_merges, r"tokenizer/vocab\.json or merges\.txt: cannot be loaded: "),
        (_unknown_merge, r"tokenizer/tokenizer\.json: cannot be loaded: .*never"),
        (
            _quantised,
            r"text_encoder/config\.json: quantization_config is .*bitsandbytes.* not",
        ),
        (_pointer, r"tokenizer/tokenizer\.json: is a pointer of git-lfs, .* fetch it again"),
        (_variant, r"text_encoder: holds model\.fp16\.safetensors, a variant"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_file(
    change: Change, said: str, tmp_path: Path
) -> None:
    model = checkpoint("z-image-turbo", tmp_path)
    change(model)
    with pytest.raises(ConfigurationError, match=said):
        load_encoder(model, None, ElementType.FLOAT32, CPU)


def test_a_pointer_in_the_place_of_any_other_file_is_refused(tmp_path: Path) -> None:
    model = checkpoint("z-image-turbo", tmp_path)
    for file in ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"):
        shutil.copy(model / file, tmp_path / "kept")
        (model / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        with pytest.raises(ConfigurationError, match=f"{file}: .*fetch it again"):
            load_vae(model, None, ElementType.FLOAT32, CPU)
        shutil.copy(tmp_path / "kept", model / file)
