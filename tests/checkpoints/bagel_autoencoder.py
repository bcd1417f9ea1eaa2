"""The image autoencoder in its authors' layout, in plain torch."""

import torch
from torch import nn
from torch.nn import functional

# Published; with more, a level would have too few channels for each.
_GROUPS = 32


class Autoencoder(nn.Module):
    """Weights have the published names.

    Args:
        widths: channels of each level, from pixels to latents.
        blocks: of each level on the way down; on the way up there is one more.
        latent_channels: of a latent.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, latent_channels: int) -> None:
        super().__init__()
        self.encoder = _Encoder(widths, blocks, latent_channels)
        self.decoder = _Decoder(widths, blocks, latent_channels)

    def moments(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the latents of pixels [1, 3, height, width]."""
        mean, logarithm = self.encoder(pixels).chunk(2, dim=1)
        return mean, torch.exp(0.5 * logarithm)


class _Level(nn.Module):
    def __init__(self, blocks: list["_Block"]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)


class _Down(_Level):
    def __init__(self, blocks: list["_Block"], width: int, *, last: bool) -> None:
        super().__init__(blocks)
        if not last:
            self.downsample = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, stride=2)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            hidden = block(hidden)
        if not hasattr(self, "downsample"):
            return hidden
        return self.downsample["conv"](functional.pad(hidden, (0, 1, 0, 1)))


class _Up(_Level):
    def __init__(self, blocks: list["_Block"], width: int, *, last: bool) -> None:
        super().__init__(blocks)
        if not last:
            self.upsample = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)})

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            hidden = block(hidden)
        if not hasattr(self, "upsample"):
            return hidden
        return self.upsample["conv"](functional.interpolate(hidden, scale_factor=2.0))


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = _Block(width, width)
        self.attn_1 = _Attention(width)
        self.block_2 = _Block(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(hidden)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        added = self.conv1(functional.silu(self.norm1(hidden)))
        added = self.conv2(functional.silu(self.norm2(added)))
        kept = self.nin_shortcut(hidden) if hasattr(self, "nin_shortcut") else hidden
        return kept + added


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width, eps=1e-6)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(hidden)
        queries, keys, values = (
            convolution(normalised).flatten(2).transpose(1, 2)
            for convolution in (self.q, self.k, self.v)
        )
        weights = (queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5).softmax(dim=-1)
        attended = (weights @ values).transpose(1, 2).reshape(hidden.shape)
        return hidden + self.proj_out(attended)


class _Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...], blocks: int, latent_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        inputs, levels = widths[0], []
        for number, width in enumerate(widths):
            level = [_Block(inputs if first == 0 else width, width) for first in range(blocks)]
            levels.append(_Down(level, width, last=number == len(widths) - 1))
            inputs = width
        self.down = nn.ModuleList(levels)
        self.mid = _Middle(inputs)
        self.norm_out = nn.GroupNorm(_GROUPS, inputs, eps=1e-6)
        self.conv_out = nn.Conv2d(inputs, 2 * latent_channels, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.conv_in(hidden)
        for level in self.down:
            hidden = level(hidden)
        return self.conv_out(functional.silu(self.norm_out(self.mid(hidden))))


class _Decoder(nn.Module):
    def __init__(self, widths: tuple[int, ...], blocks: int, latent_channels: int) -> None:
        super().__init__()
        inputs = widths[-1]
        self.conv_in = nn.Conv2d(latent_channels, inputs, 3, padding=1)
        self.mid = _Middle(inputs)
        levels = []
        for number, width in reversed(list(enumerate(widths))):
            level = [_Block(inputs if first == 0 else width, width) for first in range(blocks + 1)]
            levels.append(_Up(level, width, last=number == 0))
            inputs = width
        # Numbered from the pixels, as on the way down.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = nn.GroupNorm(_GROUPS, inputs, eps=1e-6)
        self.conv_out = nn.Conv2d(inputs, 3, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            hidden = level(hidden)
        return self.conv_out(functional.silu(self.norm_out(hidden)))
