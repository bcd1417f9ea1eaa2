"""What tiles save in memory, and what they change in a picture.

python -m benchmarks.vae_tiling
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.report import Row, write
from services.domain.settings import environment_with
from services.domain.tiling import Tiling
from services.loaded_models.loading import load_vae
from services.model_families.qwen_image.vae import QwenImageVae
from services.numerics.latents import picture_of
from triptych.domain.element_type import ElementType
from vae_service.tiling import set_pieces

ROOT = Path(__file__).parent.parent
PICTURE = "docs/images/demo_model.png"
SIDE = 512
TILES = (0, 256, 128)
NOTES = (
    "The demo model's VAE (float32, one thread, on a CPU) decodes a picture, whole or in tiles that"
    " overlap by a quarter, each row in a process of its own. The picture is the corner of"
    f" {PICTURE}, {SIDE} x {SIDE} pixels, encoded whole. Memory is by how much the process's"
    " resident set grew at most while it decoded (with MALLOC_MMAP_THRESHOLD_=65536, so that what"
    " is freed is given back at once: what a process keeps for later is glibc's affair). Pixels are"
    " compared with those of the picture decoded whole, in 8-bit levels.",
    "A tile does not see what lies beyond it. How much of that shows depends on the VAE and on the"
    " picture: these numbers are this VAE's, of a sheet of small pictures.",
)


def vae() -> QwenImageVae:
    """The demo model's."""
    torch.set_num_threads(1)
    loaded = load_vae(ROOT / "models/demo", None, ElementType.FLOAT32, "cpu").model
    assert isinstance(loaded, QwenImageVae)
    return loaded


def encode(file: Path) -> None:
    """Writes the picture's latents."""
    picture = Image.open(ROOT / PICTURE).convert("RGB").crop((0, 0, SIDE, SIDE))
    latents = vae().encode_picture(picture, picture.size)
    save_file({"latents": latents.contiguous()}, file)


@torch.no_grad()
def decode(tile: int, folder: Path) -> float:
    """Decodes them once and writes the pixels; for a process of its own.

    Returns:
        By how many MiB its memory grew.
    """
    model = vae()
    set_pieces(model, Tiling(tile) if tile else None, slicing=False)
    latents = load_file(folder / "latents.safetensors")["latents"]
    # Lets the peak begin anew from what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    pixels = model.decode_frame(latents)
    grown = resident_bytes("VmHWM") - before
    np.save(folder / f"{tile}.npy", np.asarray(picture_of(pixels)))
    return grown / 2**20


def resident_bytes(field: str) -> int:
    """VmRSS is what is resident now, VmHWM what was at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def row(tile: int, folder: Path) -> Row:
    """Decodes in a process of its own and compares."""
    command = [sys.executable, "-m", "benchmarks.vae_tiling", f"--tile={tile}", f"--in={folder}"]
    environment = environment_with(MALLOC_MMAP_THRESHOLD_="65536")
    ran = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    whole, pixels = (np.load(folder / f"{each}.npy").astype(int) for each in (0, tile))
    apart = np.abs(whole - pixels)
    return {
        "tile": f"{tile} px" if tile else "none",
        "memory, MiB": float(ran.stdout),
        "largest difference, levels": int(apart.max()),
        "mean difference, levels": float(apart.mean()),
        "pixels that differ by more than 1": f"{(apart.max(axis=-1) > 1).mean():.2%}",
    }


def main() -> None:
    """Measures and writes the results, or decodes once as one of its children."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in", type=Path, dest="folder", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.folder is not None:
        print(decode(told.tile, told.folder))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encode(folder / "latents.safetensors")
        rows = [row(tile, folder) for tile in TILES]
    print(write("vae_tiling", "VAE tiling", rows, NOTES))


if __name__ == "__main__":
    main()
