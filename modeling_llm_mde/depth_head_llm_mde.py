"""The adaptation head: patch features of both encoders and the image itself, up to one depth logit for every pixel."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch features `(B, N, D)` as a picture `(B, D, rows, columns)`; channels-last in memory, nothing is copied."""
    # In this order: transposed first, a batch of one gets strides that later layers do not take for channels-last.
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def map_to_tokens(feature_map: Tensor) -> Tensor:
    """The inverse of `tokens_to_map`."""
    return feature_map.flatten(2).transpose(1, 2)


class LLMMDEResidualBlock(nn.Module):
    """Pre-activation residual block with group normalisation, which reads one image at a time, so that training and
    prediction compute the same and a batch of one is no special case."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(channels // 8, channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(channels // 8, channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        # In place where nothing is kept for the backward pass: at full resolution every map counts.
        residual = hidden
        hidden = self.conv1(F.relu(self.norm1(hidden), inplace=True))
        hidden = self.conv2(F.relu(self.norm2(hidden), inplace=True))
        return hidden.add_(residual)


class LLMMDEFeatureProjection(nn.Module):
    """Patch features to a stage's channels, `(B, N, D)` to `(B, channels, rows, columns)`."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)  # intermediate layers of an encoder differ in scale by orders of magnitude
        self.linear = nn.Linear(width, channels)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return tokens_to_map(self.linear(self.norm(tokens)), grid)


class LLMMDEDepthLogits(nn.Conv2d):
    """The last convolution, a class of its own because it is initialised in its own way."""


class LLMMDEDepthHead(nn.Module):
    """Adaptation head: residual blocks that double the resolution from the patch grid to the image (LLM-MDE, Sec. 3).

    The first stage joins the language model's patch states with the deepest vision layer on the patch grid. Each
    further stage works at 1/8, 1/4, 1/2, 1/1 of the image with half the channels (so that all cost about the same) and
    adds a shallower vision layer and the image stem at that resolution: a few convolutions of the image itself, where
    edges are exact.

    As in other networks of pre-activation blocks (He et al., 2016, Identity Mappings), the sum of all blocks is
    normalised before the last activation. Without that (`has_output_norm=False`, as in format 1) early training can
    push the few last channels so far below 0 that none has a gradient any more, and depth is one number for good.
    """

    def __init__(
        self,
        sizes: list[int],
        vision_width: int,
        language_width: int,
        num_channels: int,
        has_output_norm: bool = True,
    ):
        super().__init__()
        self.strides = [2 ** (len(sizes) - 1 - stage) for stage in range(1, len(sizes))]
        self.language_projection = LLMMDEFeatureProjection(language_width, sizes[0])
        self.vision_projections = nn.ModuleList(LLMMDEFeatureProjection(vision_width, size) for size in sizes[:-1])
        self.blocks = nn.ModuleList(LLMMDEResidualBlock(size) for size in sizes)
        self.reductions = nn.ModuleList(nn.Conv2d(before, after, kernel_size=1) for before, after in pairwise(sizes))
        # The image stem, from full resolution (first) to an eighth, each level with the channels of its stage.
        stem_sizes = [num_channels, *sizes[:0:-1][:4]]
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=1 if level == 0 else 2, padding=1)
            for level, (before, after) in enumerate(pairwise(stem_sizes))
        )
        self.stem_blocks = nn.ModuleList(LLMMDEResidualBlock(size) for size in stem_sizes[2:])
        self.output_norm = nn.GroupNorm(sizes[-1] // 8, sizes[-1]) if has_output_norm else nn.Identity()
        self.to_logits = LLMMDEDepthLogits(sizes[-1], 1, kernel_size=3, padding=1)

    def forward(
        self,
        pixel_values: Tensor | None,
        vision_features: list[Tensor],
        grid: tuple[int, int],
        language_states: Tensor | None = None,
        language_grid: tuple[int, int] | None = None,
    ) -> Tensor | list[Tensor]:
        """Depth in two calls, so that wide vision features need not wait in memory for the language model.

        Called without `language_states`, the head makes maps of the vision features, a tenth as wide, and returns
        them, deep to shallow; called again with these maps, it returns depth logits `(B, height, width)`. The first
        call is no method of its own, since what shards or moves the weights of a module looks after its `forward`.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): The image; not read by
                the first call.
            vision_features (`list[torch.Tensor]`): In the first call each `(batch_size, num_patches, D)`, from shallow
                to deep; in the second what the first returned.
            grid (`tuple[int, int]`): Rows and columns of patches.
            language_states (`torch.Tensor` of shape `(batch_size, num_language_patches, d)`): The language model's.
            language_grid (`tuple[int, int]`): Rows and columns of `language_states`, at most `grid`.
        """
        if language_states is None:
            pairs = zip(self.vision_projections, reversed(vision_features), strict=True)
            return [projection(tokens, grid) for projection, tokens in pairs]
        # Images do not meet here. On a CPU a batch is no faster than one image after another, which take less memory.
        by_image = not (torch.compiler.is_compiling() or torch.is_grad_enabled()) and pixel_values.device.type == "cpu"
        if by_image and len(pixel_values) > 1:
            rows = zip(
                pixel_values.split(1), language_states.split(1), *(f.split(1) for f in vision_features), strict=True
            )
            return torch.cat([self._refine(row[0], row[2:], grid, row[1], language_grid) for row in rows])
        return self._refine(pixel_values, vision_features, grid, language_states, language_grid)

    def _refine(
        self,
        pixel_values: Tensor,
        vision_maps: Sequence[Tensor],
        grid: tuple[int, int],
        language_states: Tensor,
        language_grid: tuple[int, int],
    ) -> Tensor:
        height, width = pixel_values.shape[-2:]
        image_features = {1: self.stem[0](pixel_values.contiguous(memory_format=torch.channels_last))}
        for level, convolution in enumerate(self.stem[1:]):
            finer = image_features[2**level]
            image_features[2 ** (level + 1)] = self.stem_blocks[level](convolution(F.relu(finer)))

        hidden = resize_map(self.language_projection(language_states, language_grid), grid)
        hidden = self.blocks[0](hidden + resize_map(vision_maps[0], grid))
        for stage, stride in enumerate(self.strides, start=1):
            size = (math.ceil(height / stride), math.ceil(width / stride))
            hidden = resize_map(self.reductions[stage - 1](hidden), size)
            if stage < len(vision_maps):
                hidden += resize_map(vision_maps[stage], size)
            if stride in image_features:
                hidden += image_features.pop(stride)
            hidden = self.blocks[stage](hidden)
        return self.to_logits(F.gelu(self.output_norm(hidden))).squeeze(1)


def resize_map(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    if feature_map.shape[-2:] == size:
        return feature_map
    return F.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


__all__ = ["LLMMDEDepthHead", "LLMMDEDepthLogits", "map_to_tokens", "resize_map", "tokens_to_map"]
