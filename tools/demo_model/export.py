"""Writes model directories that the stock `QwenImagePipeline` loads."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import ModelMixin, QwenImagePipeline
from transformers import PreTrainedModel, Qwen2Tokenizer

from tools.demo_model.architecture import (
    new_scheduler,
    new_text_encoder,
    new_transformer,
    new_vae,
)


def write_untrained(directory: Path, tokenizer: Qwen2Tokenizer, seed: int) -> None:
    """Writes a whole pipeline with first weights, in fp32, for the phases to start from."""
    pipeline = QwenImagePipeline(
        scheduler=new_scheduler(),
        vae=new_vae(seed),
        text_encoder=new_text_encoder(seed + 1, tokenizer),
        tokenizer=tokenizer,
        transformer=new_transformer(seed + 2),
    )
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(str(partial))
    partial.replace(directory)


def replace_part(
    directory: Path, name: str, module: ModelMixin | PreTrainedModel, dtype: torch.dtype
) -> None:
    """Writes one trained part over the untrained one, in the given type."""
    target, partial = directory / name, directory / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    module.to(dtype).save_pretrained(str(partial))
    _clean(partial / "config.json")
    for file in partial.iterdir():
        file.chmod(0o644)
    shutil.rmtree(target)
    partial.replace(target)


def export_model(source: Path, out: Path, parts: dict[str, ModelMixin | PreTrainedModel]) -> None:
    """Writes a finished model directory, every weight in bf16.

    Args:
        source: A pipeline directory that gives everything that `parts` does not.
        out: The directory to write; it must not exist, so that nothing good is overwritten.
        parts: Trained modules by the name of their folder.

    Raises:
        FileExistsError: `out` exists already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or name another directory")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(source / "model_index.json", partial / "model_index.json")
    for part in ("scheduler", "tokenizer", "text_encoder", "transformer", "vae"):
        (partial / part).mkdir()
        for file in sorted((source / part).iterdir()):
            shutil.copyfile(file, partial / part / file.name)
    for name, module in parts.items():
        replace_part(partial, name, module, torch.bfloat16)
    _clean(partial / "model_index.json")
    partial.replace(out)


def _clean(path: Path) -> None:
    """Drops from a config what depends on where, and in which type, a module was loaded."""
    config = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(config)
    config.pop("_name_or_path", None)
    for nested in ("text_config", "vision_config"):
        config.get(nested, {}).pop("dtype", None)
    if json.dumps(config) != before:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")
