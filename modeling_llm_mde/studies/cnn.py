"""A CNN of the field in LLM-MDE's clothes: the same depth head over the feature pyramid of a timm network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llm_mde.configuration_llm_mde import LLMMDEConfig
from llm_mde.depth_head_llm_mde import LLMMDEDepthHead, LLMMDEFeatureProjection, map_to_tokens, resize_map
from llm_mde.modeling_llm_mde import LLMMDEDepthEstimatorOutput, LLMMDEForDepthEstimation, LLMMDEPreTrainedModel


class FeatureMapProjection(LLMMDEFeatureProjection):
    """[`LLMMDEFeatureProjection`] of a feature map `(B, D, rows, columns)`, which keeps the map's own resolution."""

    def forward(self, feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().forward(map_to_tokens(feature_map), tuple(feature_map.shape[-2:]))


class CNNForDepthEstimation(LLMMDEPreTrainedModel):
    """
    Depth from a timm CNN (strides 4 to 32) and LLM-MDE's depth head, with LLM-MDE's loss and range of depth.

    The head starts on a grid of 1/16 of the image, as with patches of 16 pixels. It gets the deepest map there, twice:
    in the place of the last vision layer and of the language model's states. The shallower maps come in at the stages
    behind, at their own resolution, which is more detail than patches have.

    Args:
        config ([`LLMMDEConfig`]): `min_depth`, `max_depth`, `depth_estimation_type`, the loss and `head_hidden_sizes`
            (five, by default those for ViT-B) are read.
        architecture (`str`): A CNN of timm with `features_only`, such as "resnet18".
        pretrained (`bool`, *optional*, defaults to `False`): Whether timm loads its weights from the Hub.
        normalised_with (`tuple` of two sequences, *optional*): Mean and standard deviation with which the processor
            normalises `pixel_values`. The CNN then sees them as its own weights were trained (timm's
            `pretrained_cfg`); by default it sees them as they are, which random weights do not mind.

    Raises:
        ValueError: If the CNN does not have four maps with strides 4 to 32, or the head not five sizes.
    """

    _depth, _loss = LLMMDEForDepthEstimation._depth, LLMMDEForDepthEstimation._loss

    def __init__(
        self,
        config: LLMMDEConfig,
        architecture: str,
        pretrained: bool = False,
        normalised_with: tuple[Sequence[float], Sequence[float]] | None = None,
    ):
        import timm

        super().__init__(config)
        sizes = config.head_hidden_sizes or [256, 128, 64, 32, 16]
        # Named as in LLM-MDE, so that counting and learning rates by part find it.
        self.vision_tower = timm.create_model(architecture, features_only=True, pretrained=pretrained)
        info = self.vision_tower.feature_info
        strides, widths = info.reduction()[-4:], info.channels()[-4:]
        if strides != [4, 8, 16, 32] or len(sizes) != 5:
            raise ValueError(
                f"`architecture` is {architecture!r} with strides {strides}, and the head has {len(sizes)} sizes; "
                "choose a CNN whose last strides are 4, 8, 16, 32, such as 'resnet18', and five `head_hidden_sizes`."
            )
        self.depth_head = LLMMDEDepthHead(sizes, widths[-1], widths[-1], num_channels=3)
        self.depth_head.vision_projections = nn.ModuleList(map(FeatureMapProjection, widths[::-1], sizes[:-1]))
        self.depth_head.apply(self._init_weights)
        self.is_renormalised = normalised_with is not None
        if self.is_renormalised:
            of_weights = self.vision_tower.pretrained_cfg
            mean, std = (torch.tensor(values)[:, None, None] for values in normalised_with)
            own_mean, own_std = (torch.tensor(of_weights[name])[:, None, None] for name in ("mean", "std"))
            self.register_buffer("scale", std / own_std, persistent=False)
            self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **prompt) -> LLMMDEDepthEstimatorOutput:
        """As of [`LLMMDEForDepthEstimation`]; a prompt is taken and not read."""
        grid = tuple(math.ceil(side / 16) for side in pixel_values.shape[-2:])
        seen = pixel_values * self.scale + self.shift if self.is_renormalised else pixel_values
        maps = self.vision_tower(seen)[-4:]
        maps[-1] = resize_map(maps[-1], grid)
        states, maps = map_to_tokens(maps[-1]), self.depth_head(None, maps, grid)
        predicted_depth = self._depth(self.depth_head(pixel_values, maps, grid, states, grid))
        loss = None if labels is None else self._loss(predicted_depth, labels)
        return LLMMDEDepthEstimatorOutput(loss=loss, predicted_depth=predicted_depth)


__all__ = ["CNNForDepthEstimation", "FeatureMapProjection"]
