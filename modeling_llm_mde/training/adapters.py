"""LoRA for both encoders, whole new layers beside them, and what of it all is trained."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from llm_mde import LLMMDEForDepthEstimation

ENCODERS = ("vision_tower", "language_model")
NEW_LAYERS = ("text_prototypes", "reprogramming", "depth_head")  # what no pretrained encoder brings
TRAINING_METHODS = ("lora", "full", "frozen")

# Names that the supported encoders of Transformers and timm give the projections inside their attention blocks.
_ATTENTION = r"(?:attention|attn|self_attn)"
_PROJECTIONS = {
    "query": ("query", "q_proj", "q_lin"),
    "key": ("key", "k_proj", "k_lin"),
    "value": ("value", "v_proj", "v_lin"),
    "output": ("output.dense", "dense", "o_proj", "out_proj", "out_lin", "Wo", "proj", "c_proj"),
}
_FUSED_PROJECTIONS = ("qkv", "Wqkv", "c_attn")  # query, key and value in one matrix: adapted together or not at all


@dataclass(frozen=True)
class LoraPreset:
    """Rank and scale of the updates of both encoders; an update is multiplied by alpha / rank."""

    vision_rank: int
    vision_alpha: int
    language_rank: int
    language_alpha: int
    targets: tuple[str, ...] = ("query", "value")


LORA_PRESETS = {
    "default": LoraPreset(vision_rank=16, vision_alpha=32, language_rank=16, language_alpha=32),
    # The authors' ranks, 160 (alpha 320) and 32. Which encoder has which, and the second alpha, are our reading.
    "authors": LoraPreset(160, 320, 32, 32, targets=("query", "key", "value")),
}


def lora_config(
    model: "LLMMDEForDepthEstimation",
    preset: str = "default",
    *,
    vision_rank: int | None = None,
    vision_alpha: int | None = None,
    language_rank: int | None = None,
    language_alpha: int | None = None,
    targets: Sequence[str] | None = None,
    dropout: float = 0.0,
    use_dora: bool = False,
    use_rslora: bool = False,
) -> "LoraConfig":
    """
    PEFT configuration of LLM-MDE's adapter: low-rank updates in the attention of both encoders (LLM-MDE, Sec. 3; Hu et
    al., 2022), the new layers whole.

    The patterns are anchored at the part they belong to and made for the encoders of this very model, so that nothing
    in the new layers is hit by accident. Encoders with one matrix for query, key and value (timm, GPT-2, ModernBERT)
    get one update for it if any of the three is asked for.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model to adapt; it is not changed.
        preset (`str`, *optional*, defaults to `"default"`): One of `LORA_PRESETS`; the following replace its values.
        vision_rank, language_rank (`int`, *optional*): Rank in each encoder; 0 leaves that encoder as it is.
        vision_alpha, language_alpha (`int`, *optional*): Scale in each; twice the rank where only the rank is given.
        targets (`Sequence[str]`, *optional*): Of `"query"`, `"key"`, `"value"`, `"output"`.
        dropout (`float`, *optional*, defaults to 0.0): Dropout in front of the updates.
        use_dora, use_rslora (`bool`, *optional*): As in `peft.LoraConfig`.

    Returns:
        `peft.LoraConfig`: Its `task_type="FEATURE_EXTRACTION"` is the one `AutoPeftModelForFeatureExtraction` loads.

    Raises:
        ValueError: If the preset or a target is unknown, both ranks are 0, or an encoder has no such projections.
    """
    from peft import LoraConfig

    if preset not in LORA_PRESETS:
        raise ValueError(f"`preset` is {preset!r}; choose one of {', '.join(map(repr, LORA_PRESETS))}.")
    base = LORA_PRESETS[preset]
    targets = base.targets if targets is None else tuple(targets)
    unknown = [target for target in targets if target not in _PROJECTIONS]
    if unknown or not targets:
        raise ValueError(f"`targets` is {list(targets)}; name one or more of {', '.join(_PROJECTIONS)}.")

    sizes = {}
    for part, rank, alpha in (("vision", vision_rank, vision_alpha), ("language", language_rank, language_alpha)):
        own_rank, own_alpha = getattr(base, f"{part}_rank"), getattr(base, f"{part}_alpha")
        alpha = alpha if alpha is not None else own_alpha if rank is None else 2 * rank
        rank = own_rank if rank is None else rank
        if rank < 0 or alpha <= 0 < rank:
            raise ValueError(f"`{part}_rank` is {rank} and `{part}_alpha` {alpha}; pass a rank >= 0 and an alpha > 0.")
        sizes[part] = (rank, alpha)
    encoders = dict(zip(ENCODERS, sizes.values(), strict=True))
    adapted = {encoder: size for encoder, size in encoders.items() if size[0] > 0}
    if not adapted:
        raise ValueError("`vision_rank` and `language_rank` are both 0; train with the method 'frozen' instead.")

    patterns = {encoder: _attention_patterns(model, encoder, targets) for encoder in adapted}
    (rank, alpha), *others = adapted.values()
    differs = bool(others) and others[0] != (rank, alpha)
    return LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=alpha,
        # Only the language model's differ from the first, the vision encoder's.
        rank_pattern={pattern: others[0][0] for pattern in patterns["language_model"]} if differs else {},
        alpha_pattern={pattern: others[0][1] for pattern in patterns["language_model"]} if differs else {},
        target_modules="|".join(pattern for several in patterns.values() for pattern in several),
        modules_to_save=list(NEW_LAYERS),
        lora_dropout=dropout,
        use_dora=use_dora,
        use_rslora=use_rslora,
    )


def adapted_modules(model: nn.Module, config: "LoraConfig") -> list[str]:
    """
    Names of the layers of an unadapted model that get a low-rank update from `config`.

    Raises:
        ValueError: If `config.target_modules` is a list, of which PEFT would match the ends of names anywhere.
    """
    if not isinstance(config.target_modules, str):
        raise ValueError(
            f"`config.target_modules` is {config.target_modules!r}, which also matches layers elsewhere; build it "
            "with `lora_config`, or write one anchored pattern."
        )
    return [name for name, _ in model.named_modules() if re.fullmatch(config.target_modules, name)]


def add_lora(model: "LLMMDEForDepthEstimation", config: "LoraConfig") -> "PeftModel":
    """
    Wraps a model for training with `config`, as `peft.get_peft_model` does, and checks that each layer meant was met.

    Raises:
        ValueError: If PEFT adapted another number of layers than the encoders have attention blocks to adapt.
    """
    from peft import get_peft_model

    expected = adapted_modules(model, config)
    adapted = get_peft_model(model, config)
    if sorted(adapted.targeted_module_names) != sorted(expected):
        raise ValueError(
            f"`config.target_modules` was made for {len(expected)} layers but PEFT adapted "
            f"{len(adapted.targeted_module_names)}; build it with `lora_config` for this very model."
        )
    return adapted


def prepare_for_training(model: "LLMMDEForDepthEstimation", method: str, config: "LoraConfig | None" = None):
    """
    Marks what is trained.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model; changed in place.
        method (`str`): `"lora"` (low-rank updates in the encoders, new layers whole), `"full"` (every weight but the
            word basis) or `"frozen"` (the new layers alone; the encoders stay bit-identical).
        config (`peft.LoraConfig`, *optional*): For `"lora"`; by default `lora_config(model)`.

    Returns:
        The model to train: a `peft.PeftModel` for `"lora"`, else the model itself.
    """
    if method not in TRAINING_METHODS:
        raise ValueError(f"`method` is {method!r}; choose one of {', '.join(map(repr, TRAINING_METHODS))}.")
    if method == "lora":
        return add_lora(model, config or lora_config(model))
    model.requires_grad_(method == "full")
    for part in NEW_LAYERS:
        model.get_submodule(part).requires_grad_(True)
    model.word_basis.requires_grad_(False)
    return model


@dataclass(frozen=True)
class ParameterCount:
    """Weights of one part: all of them, those being trained, and the bytes the trained ones take."""

    part: str
    total: int
    trainable: int
    trainable_bytes: int


def count_parameters(model: nn.Module) -> list[ParameterCount]:
    """
    Weights of each part of a model or of a `PeftModel` around one, and their sum as the last row.

    A layer that an adapter keeps whole is counted once, as trained. The bytes of the trained weights are those of the
    adapter file, up to its header.
    """
    parts: dict[str, list[int]] = {part: [0, 0, 0] for part in (*ENCODERS, "word_basis", *NEW_LAYERS)}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue  # PEFT keeps the base's own copy of a layer that it trains whole
        part = next(part for part in parts if f".{part}." in f".{name}")
        # Quantised weights are packed; bitsandbytes notes how many there are.
        size = getattr(parameter, "quant_state", None)
        size = parameter.numel() if size is None else size.shape.numel()
        parts[part][0] += size
        if parameter.requires_grad:
            parts[part][1] += size
            parts[part][2] += size * parameter.element_size()
    rows = [ParameterCount(part, *counts) for part, counts in parts.items()]
    sums = (sum(column) for column in zip(*parts.values(), strict=True))
    return [*rows, ParameterCount("all", *sums)]


def format_parameter_table(rows: Iterable[ParameterCount]) -> str:
    """The rows as text: part, weights, trained weights, megabytes trained."""
    lines = [f"{'part':<16}{'weights':>14}{'trained':>14}{'trained MB':>12}"]
    for row in rows:
        lines.append(f"{row.part:<16}{row.total:>14,}{row.trainable:>14,}{row.trainable_bytes / 1e6:>12.2f}")
    return "\n".join(lines)


def _attention_patterns(model: nn.Module, encoder: str, targets: Sequence[str]) -> list[str]:
    """One anchored pattern for each kind of layer in one encoder; the layers' numbers are left open."""
    leaves = [re.escape(name) for target in targets for name in _PROJECTIONS[target]]
    if set(targets) & {"query", "key", "value"}:
        leaves += _FUSED_PROJECTIONS
    # In a numbered layer: the pooling heads of some encoders have an attention of their own, which nothing here reads.
    block = rf"(?:.+\.)?\d+\.{_ATTENTION}"
    wanted = re.compile(rf"{block}\.(?:(?:self|attention)\.)?(?:{'|'.join(leaves)})")
    found, blocks = {}, 0
    for name, module in model.get_submodule(encoder).named_modules():
        blocks += bool(re.fullmatch(block, name))
        if wanted.fullmatch(name) and hasattr(module, "weight") and module.weight.ndim == 2:
            pattern = re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(f"{encoder}.{name}"))
            found[pattern] = found.get(pattern, 0) + 1
    fused = any(pattern.endswith(_FUSED_PROJECTIONS) for pattern in found)
    per_block = len({"q, k, v" if fused and target != "output" else target for target in targets})
    if not found or sum(found.values()) != per_block * blocks:
        raise ValueError(
            f"`targets` is {list(targets)}, but in {encoder} ({blocks} attention blocks) only "
            f"{sum(found.values())} layers answer to it; pass `target_modules` to `peft.LoraConfig` yourself."
        )
    return list(found)


__all__ = [
    "LORA_PRESETS",
    "NEW_LAYERS",
    "LoraPreset",
    "ParameterCount",
    "adapted_modules",
    "add_lora",
    "count_parameters",
    "format_parameter_table",
    "lora_config",
    "prepare_for_training",
]
