"""What else estimates depth: models of Transformers at their published sizes, and a CNN, all with random weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .contenders import OUR_SIZES, Size, size_text

CNN = "resnet50"
DEPTH_ANYTHING_BASE = "Depth Anything Base"


@dataclass(frozen=True)
class Peer:
    """A network that reads pixels alone."""

    name: str
    make: Callable[[], nn.Module]  # a function of a module, so that any process can call it
    sizes: Mapping[str, Size]
    reads_values = False

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def inputs(self, size: Size, batch_size: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.rand(batch_size, 3, *size)}

    def reads(self, size: Size) -> str:
        return size_text(size)


def depth_anything_small() -> nn.Module:
    return _depth_anything(384, 6, [48, 96, 192, 384], 64)


def depth_anything_base() -> nn.Module:
    return _depth_anything(768, 12, [96, 192, 384, 768], 128)


def _depth_anything(width: int, heads: int, neck: list[int], fusion: int) -> nn.Module:
    """As published: DINOv2 at 518 x 518, whose last four layers are read. Relative or metric differs in one layer."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=width,
        num_attention_heads=heads,
        image_size=518,
        patch_size=14,
        out_indices=[9, 10, 11, 12],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=width, neck_hidden_sizes=neck, fusion_hidden_size=fusion
    )
    return DepthAnythingForDepthEstimation(config)


def dpt_base() -> nn.Module:
    """The defaults of `DPTConfig`: a ViT-B/16. The published DPT-large has a ViT-L."""
    from transformers import DPTConfig, DPTForDepthEstimation

    return DPTForDepthEstimation(DPTConfig())


def glpn_nyu() -> nn.Module:
    """vinvino02/glpn-nyu: a SegFormer-B4."""
    from transformers import GLPNConfig, GLPNForDepthEstimation

    return GLPNForDepthEstimation(
        GLPNConfig(hidden_sizes=[64, 128, 320, 512], depths=[3, 8, 27, 3], decoder_hidden_size=64)
    )


def zoedepth_nyu() -> nn.Module:
    """Intel/zoedepth-nyu: a BEiT-large of 384 x 384."""
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation

    backbone = BeitConfig(
        image_size=384,
        num_hidden_layers=24,
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage6", "stage12", "stage18", "stage24"],
    )
    bins = [{"name": "nyu", "n_bins": 64, "min_depth": 1e-3, "max_depth": 10.0}]
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[256, 512, 1024, 1024], bin_configurations=bins
    )
    return ZoeDepthForDepthEstimation(config)


def cnn_with_our_head() -> nn.Module:
    from llm_mde import LLMMDEConfig
    from llm_mde.studies.cnn import CNNForDepthEstimation

    return CNNForDepthEstimation(LLMMDEConfig(), CNN)


# Patches of 14 pixels: 476x630 is the nearest below 480x640. DPT and ZoeDepth read what they were made for.
_OF_14: Mapping[str, Size] = {"224x224": (224, 224), "480x640": (476, 630), "518x518": (518, 518)}

PEERS = (
    Peer("Depth Anything Small", depth_anything_small, _OF_14),
    Peer(DEPTH_ANYTHING_BASE, depth_anything_base, _OF_14),
    Peer("DPT with a ViT-B", dpt_base, {"480x640": (384, 384)}),
    Peer("GLPN", glpn_nyu, OUR_SIZES),
    Peer("ZoeDepth", zoedepth_nyu, {"480x640": (384, 512)}),
    Peer(f"CNN ({CNN}), our head", cnn_with_our_head, OUR_SIZES),
)


def find_peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


__all__ = ["DEPTH_ANYTHING_BASE", "PEERS", "Peer", "find_peer"]
