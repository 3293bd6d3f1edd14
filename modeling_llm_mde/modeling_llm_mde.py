"""LLM-MDE: metric depth from one photograph, guided by a language model (arXiv 2409.01133).

How text prototypes and patches meet is in `reprogramming_llm_mde.py`, how features become pixels in
`depth_head_llm_mde.py`. Here they are put between the two encoders: `LLMMDEForDepthEstimation.forward` follows the
paper's overview figure.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer
from transformers import initialization as init
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, logging, output_capturing

from .adapters_llm_mde import AdapterMixin
from .configuration_llm_mde import LLMMDEConfig, prepare_text_config, prepare_vision_config
from .depth_head_llm_mde import LLMMDEDepthHead, LLMMDEDepthLogits, map_to_tokens, resize_map, tokens_to_map
from .loss_llm_mde import relative_loss, silog_loss
from .pipeline_llm_mde import LLMMDEDepthEstimationPipeline  # noqa: F401 (so that saving copies it beside the weights)
from .publishing_llm_mde import PublishingMixin
from .reprogramming_llm_mde import (
    LLMMDEReprogramming,
    LLMMDETextPrototypes,
    LLMMDEWordBasis,
    embedding_basis,
    weights_in_basis,
)

logger = logging.get_logger(__name__)

# Whether encoders take a list of hidden states to keep, counted as in all of them. Transformers 5.17 counts layers.
_SELECTS_HIDDEN_STATES = hasattr(output_capturing, "resolve_hidden_states_indices")


@dataclass
class LLMMDEDepthEstimatorOutput(ModelOutput):
    """
    Output of [`LLMMDEForDepthEstimation`].

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            SILog loss.
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)`):
            Depth in metres (for relative models: up to one unknown factor for each image), at the resolution of
            `pixel_values`, float32 also in half precision.
        hidden_states (`tuple(torch.Tensor)`, *optional*, returned when `output_hidden_states=True`):
            Hidden states of the vision encoder, as that encoder returns them.
        attentions (`tuple(torch.Tensor)`, *optional*, returned when `output_attentions=True`):
            Attention weights of the vision encoder.
        language_model_output (`ModelOutput`, *optional*, returned when `output_hidden_states=True` or `output_attentions=True`):
            The language model's output, with its `hidden_states` and `attentions` as asked for. Each row is its
            prompt, then the patches, then what padding the prompt had.
        prototype_attentions (`torch.Tensor` of shape `(batch_size, num_heads, num_patches, num_prototypes)`, *optional*, returned when `output_attentions=True` or `output_prototype_attentions=True`):
            How much each patch read of each text prototype. Patches in rows from the top left, after pooling.
    """  # noqa: E501

    loss: Tensor | None = None
    predicted_depth: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    language_model_output: ModelOutput | None = None
    prototype_attentions: Tensor | None = None


@dataclass(frozen=True)
class VisionLayout:
    """What the rest of the model must know of a vision encoder."""

    hidden_size: int
    num_layers: int
    num_channels: int
    patch_height: int
    patch_width: int

    @classmethod
    def of(cls, vision_tower: PreTrainedModel) -> "VisionLayout":
        config = vision_tower.config
        if config.model_type == "timm_wrapper":
            timm_model = vision_tower.timm_model
            if not hasattr(timm_model, "blocks") or not hasattr(timm_model.patch_embed, "patch_size"):
                raise ValueError(
                    f"`vision_config.architecture` is {config.architecture!r}, which is not a vision transformer with "
                    "one token per patch; choose a ViT, such as 'vit_base_patch16_224'."
                )
            patch_height, patch_width = timm_model.patch_embed.patch_size
            if hasattr(timm_model.patch_embed, "backbone"):
                raise ValueError(
                    f"`vision_config.architecture` is {config.architecture!r}, whose patches are not of the image but "
                    "of the maps of a CNN in front; choose a plain ViT, such as 'vit_base_patch16_224'."
                )
            return cls(timm_model.num_features, len(timm_model.blocks), 3, patch_height, patch_width)
        missing = [name for name in ("hidden_size", "num_hidden_layers", "patch_size") if not hasattr(config, name)]
        if missing:
            raise ValueError(
                f"`vision_config` is {config.model_type!r}, which has no {missing[0]!r}; choose a vision transformer "
                "with one token per patch, such as ViT, DeiT, DINOv2 or SigLIP."
            )
        patch_size = config.patch_size
        patch_height, patch_width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        num_channels = getattr(config, "num_channels", 3)
        return cls(config.hidden_size, config.num_hidden_layers, num_channels, patch_height, patch_width)

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of a `(batch_size, num_channels, height, width)` image."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"`pixel_values` is {tuple(pixel_values.shape)}; it must be (batch_size, {self.num_channels}, height, "
                "width). The processor makes it so."
            )
        height, width = pixel_values.shape[-2:]
        if height == 0 or width == 0 or height % self.patch_height or width % self.patch_width:
            raise ValueError(
                f"`pixel_values` is {height} x {width} pixels; both sides must be multiples of the patch, "
                f"{self.patch_height} x {self.patch_width}. Give the processor such a `size`, or "
                f"`ensure_multiple_of={math.lcm(self.patch_height, self.patch_width)}`."
            )
        return height // self.patch_height, width // self.patch_width


def patch_tokens(hidden_state: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch features `(B, N, D)` of an encoder's hidden state, without the special tokens in front of them.

    timm returns intermediate layers as `(B, D, rows, columns)`, without special tokens.
    """
    if hidden_state.ndim == 4:
        return map_to_tokens(hidden_state)
    num_patches = grid[0] * grid[1]
    if hidden_state.shape[1] < num_patches:
        raise ValueError(
            f"`vision_config` describes an encoder with {hidden_state.shape[1]} tokens for {num_patches} patches; "
            "choose one with a token for every patch, such as ViT, DeiT, DINOv2 or SigLIP."
        )
    return hidden_state[:, hidden_state.shape[1] - num_patches :]


def largest_grid(grid: tuple[int, int], max_patches: int | None) -> tuple[int, int]:
    """The largest grid of (nearly) the same shape with at most `max_patches` cells; `grid` itself if it fits."""
    rows, columns = grid
    if max_patches is None or rows * columns <= max_patches:
        return grid
    shrink = math.sqrt(max_patches / (rows * columns))
    most_rows = min(rows, max_patches)  # with one column
    low_rows, low_columns = min(most_rows, max(1, int(rows * shrink))), max(1, int(columns * shrink))
    fitting = (r for r in (low_rows, low_rows + 1) if r <= most_rows)
    candidates = [(r, min(columns, low_columns + 1, max_patches // r)) for r in fitting]
    return max(candidates, key=lambda cells: cells[0] * cells[1])


def grid_for_language(grid: tuple[int, int], config: LLMMDEConfig) -> tuple[int, int]:
    """Rows and columns of the patches that the language model reads, of the `grid` of the vision encoder's."""
    rows, columns = (math.ceil(side / config.language_pooling) for side in grid)
    return largest_grid((rows, columns), config.max_language_patches)


class LLMMDEPreTrainedModel(PublishingMixin, AdapterMixin, PreTrainedModel):
    config_class = LLMMDEConfig
    base_model_prefix = "llm_mde"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over a batch: the Trainer must average it itself
    _no_split_modules = ["LLMMDETextPrototypes", "LLMMDEReprogramming", "LLMMDEDepthHead"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Outside Transformers only modules with weights of their own are asked. The encoders bring their own rules, so
        # every layer that arrives here is one of this file.
        if isinstance(module, LLMMDEWordBasis):
            module.reset_parameters(self.get_input_embeddings().weight)
        elif isinstance(module, LLMMDETextPrototypes):
            module.reset_parameters()
        elif isinstance(module, LLMMDEDepthLogits):
            # Start smooth, at about a quarter of the range: nearer to an average scene than its middle.
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            init.constant_(module.bias, -1.0)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="linear")
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class LLMMDEForDepthEstimation(LLMMDEPreTrainedModel):
    r"""
    LLM-MDE: a vision encoder, a language model that reads the image as patches in its own embedding space after a
    prompt about it, and a head that turns both into dense depth.

    Args:
        config ([`LLMMDEConfig`]): The configuration. Use [`~PreTrainedModel.from_pretrained`] or
            [`~LLMMDEForDepthEstimation.from_vision_text_pretrained`] to load weights as well.
    """

    def __init__(self, config: LLMMDEConfig):
        config.check()  # once more: `from_pretrained` sets fields after the configuration was made
        super().__init__(config)
        self.vision_tower = _encoder_from_config(config.vision_config)
        self.language_model = _encoder_from_config(config.text_config)
        self.vision_layout = layout = VisionLayout.of(self.vision_tower)
        vocab_size = self.language_model.get_input_embeddings().num_embeddings
        self.word_basis = LLMMDEWordBasis(config, vocab_size)
        self.text_prototypes = LLMMDETextPrototypes(config, vocab_size)
        self.reprogramming = LLMMDEReprogramming(config, patch_width=layout.hidden_size)

        sizes = config.head_hidden_sizes or _default_head_sizes(layout.hidden_size)
        self.feature_layers = config.vision_feature_layers or _default_feature_layers(
            layout.num_layers, len(sizes) - 1
        )
        if self.feature_layers[-1] > layout.num_layers:
            raise ValueError(
                f"`vision_feature_layers` is {list(self.feature_layers)}; the vision encoder has {layout.num_layers} "
                "layers."
            )
        self.depth_head = LLMMDEDepthHead(
            sizes,
            layout.hidden_size,
            config.language_state_size,
            num_channels=layout.num_channels,
            has_output_norm=config.format_version >= 2,
        )
        self.post_init()
        # The word embeddings are called from here, not only by the module around them. Were that module sharded as
        # one (FSDP), they would not be whole when called alone; apart from it they are, with the root or as one.
        embeddings = self.get_input_embeddings()
        around = {type(m).__name__ for m in self.language_model.modules() if any(n is embeddings for n in m.modules())}
        self._no_split_modules = sorted(set(self._no_split_modules) - around)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, *, dtype: torch.dtype = torch.float32, **overrides
    ) -> "LLMMDEForDepthEstimation":
        r"""
        Composes two pretrained checkpoints into one model; the parts in between start untrained.

        Args:
            vision (`str`): Local folder or Hub id of the vision encoder, for instance
                `"google/vit-base-patch16-224"`, `"facebook/dinov2-base"`, or a timm ViT.
            text (`str`): Local folder or Hub id of the language model, for instance `"google-bert/bert-base-uncased"`.
                Its tokenizer spells the default prompt.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Type of all weights.
            overrides: Fields of [`LLMMDEConfig`], for instance `max_depth=80.0`.

        Returns:
            [`LLMMDEForDepthEstimation`]: In evaluation mode.

        Raises:
            ValueError: If a keyword is no field of [`LLMMDEConfig`], or a checkpoint has not all weights of its
                encoder.
        """
        fields = inspect.signature(LLMMDEConfig).parameters.keys() - {"kwargs", "vision_config", "text_config"}
        unknown = sorted(overrides.keys() - fields)
        if unknown:
            raise ValueError(
                f"`overrides` has {', '.join(map(repr, unknown))}, which `LLMMDEConfig` does not have or the encoders "
                "bring; pass fields such as `max_depth`, and for a revision of an encoder the folder it is in."
            )
        vision_tower = _encoder_from_pretrained(vision, "vision_config", dtype)
        language_model = _encoder_from_pretrained(text, "text_config", dtype)
        if overrides.get("default_prompt_ids") is None:
            overrides["default_prompt_ids"] = _spell_default_prompt(text, overrides)
        config = LLMMDEConfig(vision_config=vision_tower.config, text_config=language_model.config, **overrides)
        model = cls(config).to(dtype)
        model.vision_tower = vision_tower
        model.language_model = language_model
        model.word_basis.reset_parameters(model.get_input_embeddings().weight)
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's word embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As in Transformers; in the map from words to prototypes (`vocabulary`) words that are new count for nothing
        at first, so that the prototypes stay."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.text_prototypes.resize_vocabulary(self.config, embeddings.num_embeddings)
        return embeddings

    def train(self, mode: bool = True) -> "LLMMDEForDepthEstimation":
        """As in PyTorch; without `config.encoder_dropout` the encoders compute as in evaluation in either mode, but
        for layers that drop out by themselves (OPT's) while they are checkpointed."""
        super().train(mode)
        if mode and not self.config.encoder_dropout:
            _rest(self.vision_tower)
            _rest(self.language_model)
        return self

    def _set_gradient_checkpointing(self, enable: bool = True, *args, **kwargs) -> None:
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        if self.config.vision_config.model_type == "timm_wrapper":  # which has its own way
            self.vision_tower._set_gradient_checkpointing(enable)
        if self.training and not self.config.encoder_dropout:
            self.train()  # what is checkpointed does not rest

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False):
        """As in PyTorch, but also takes the names that `save_pretrained` writes, which for some encoders are older.

        The Trainer loads its checkpoints this way, with `strict=False`: without the translation, resuming and loading
        the best checkpoint would leave the layers of a ViT as they are, with a warning.
        """
        own = self.state_dict()
        if not state_dict.keys() <= own.keys():
            name_of = {id(tensor): name for name, tensor in own.items()}
            saved = revert_weight_conversion(self, own)
            renamed = {old: name_of[id(tensor)] for old, tensor in saved.items() if id(tensor) in name_of}
            state_dict = {renamed.get(name, name): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_prototype_attentions: bool | None = None,
        **kwargs,
    ) -> LLMMDEDepthEstimatorOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
                Normalised images from [`LLMMDEProcessor`]; height and width are multiples of the patch.
            input_ids (`torch.Tensor` of shape `(batch_size, prompt_length)`, *optional*):
                Prompts, padded on either side. Without them every image is read with `config.default_prompt_ids`.
            attention_mask (`torch.Tensor` of shape `(batch_size, prompt_length)`, *optional*):
                1 for the words of a prompt, 0 for padding. Defaults to all ones; read only with `input_ids`.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*):
                Measured depth in metres at any resolution; pixels that are not positive, not finite or (metric models)
                above `config.max_depth` are ignored. Given them, the output has a `loss`.
            output_attentions (`bool`, *optional*):
                Whether to return attention weights; needs `attn_implementation="eager"`.
            output_hidden_states (`bool` or `list[int]`, *optional*):
                Whether to return the hidden states of both encoders; a list of indices keeps only those of the vision
                encoder, with `None` in the place of the others.
            output_prototype_attentions (`bool`, *optional*):
                Whether to return what each patch read of each prototype; works with every `attn_implementation`.

        Returns:
            [`LLMMDEDepthEstimatorOutput`]

        Raises:
            ValueError: If a tensor has a shape that does not fit; the message names it.

        Example:

        ```python
        >>> import torch
        >>> from transformers.image_utils import load_image
        >>> from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

        >>> model = LLMMDEForDepthEstimation.from_pretrained("user/llm-mde-nyu")
        >>> processor = LLMMDEProcessor.from_pretrained("user/llm-mde-nyu")
        >>> image = load_image("room.jpg")
        >>> inputs = processor(images=image, return_tensors="pt")
        >>> with torch.no_grad():
        ...     outputs = model(**inputs)
        >>> depth = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
        >>> depth[0]["predicted_depth"]  # (height, width) in metres
        ```
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        grid = self.vision_layout.grid(pixel_values)
        pixel_values = pixel_values.to(self.depth_head.to_logits.weight.dtype)

        vision_outputs = self._see(pixel_values, output_attentions, bool(output_hidden_states))
        vision_maps = self.depth_head(None, self._features(vision_outputs, grid), grid)
        last_patches = patch_tokens(vision_outputs.last_hidden_state, grid)
        hidden_states = _select(vision_outputs.hidden_states, output_hidden_states)
        attentions = vision_outputs.attentions if output_attentions else None
        del vision_outputs  # nothing that is not read again stays in memory beside the language model's states

        language_grid = grid_for_language(grid, self.config)
        if language_grid != grid:
            last_patches = map_to_tokens(F.adaptive_avg_pool2d(tokens_to_map(last_patches, grid), language_grid))
        prototypes = self.text_prototypes(self.word_basis(self._words_of_basis()))
        patches, prototype_attentions = self.reprogramming(
            last_patches, prototypes, output_attentions=output_attentions or bool(output_prototype_attentions)
        )
        del last_patches

        sequence, mask, patch_places = self._join(patches, input_ids, attention_mask)
        del patches
        language_outputs, language_states = self._read(
            sequence, mask, patch_places, output_attentions, output_hidden_states
        )
        del sequence

        logits = self.depth_head(pixel_values, vision_maps, grid, language_states, language_grid)
        predicted_depth = self._depth(logits)
        loss = None if labels is None else self._loss(predicted_depth, labels)

        return LLMMDEDepthEstimatorOutput(
            loss=loss,
            predicted_depth=predicted_depth,
            hidden_states=hidden_states,
            attentions=attentions,
            language_model_output=language_outputs if output_hidden_states or output_attentions else None,
            prototype_attentions=prototype_attentions,
        )

    def _words_of_basis(self) -> Tensor | None:
        """The word embeddings where the basis is made of them; elsewhere they may lie on a disk meanwhile."""
        is_compact = self.config.prototype_parametrization == "compact"
        return None if is_compact else self.get_input_embeddings().weight

    def _see(self, pixel_values: Tensor, output_attentions: bool, output_hidden_states: bool) -> ModelOutput:
        """The vision encoder's states, all of them or those that the head reads; position embeddings are interpolated
        if the image is not of its own size."""
        options = {"output_attentions": True} if output_attentions else {}
        if "interpolate_pos_encoding" in inspect.signature(type(self.vision_tower).forward).parameters:
            image_size = self.config.vision_config.image_size
            own_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
            options["interpolate_pos_encoding"] = tuple(pixel_values.shape[-2:]) != own_size
            if options["interpolate_pos_encoding"] and own_size[0] != own_size[1]:
                raise ValueError(
                    f"`pixel_values` is {tuple(pixel_values.shape[-2:])} but the vision encoder was made for "
                    f"{own_size}, and Transformers interpolates position embeddings from squares only; resize to that "
                    "size, or build the encoder with a square `image_size`."
                )
        wants_all = output_hidden_states or not _SELECTS_HIDDEN_STATES
        return self.vision_tower(
            pixel_values, output_hidden_states=True if wants_all else self._feature_places(), **options
        )

    def _feature_places(self) -> list[int]:
        """Where the layers that the head reads are among the vision encoder's hidden states.

        Counted from the end: most encoders put the embeddings before the first layer, timm does not.
        """
        return [layer - self.vision_layout.num_layers - 1 for layer in sorted(set(self.feature_layers))]

    def _features(self, vision_outputs: ModelOutput, grid: tuple[int, int]) -> list[Tensor]:
        """Patch features of the layers the head reads, shallow to deep, each `(B, N, D)`."""
        states, places = vision_outputs.hidden_states, self._feature_places()
        # Asked for some, encoders return those alone, or all with `None` for the others.
        found = states if len(states) == len(places) else [states[place] for place in places]
        of_layer = dict(zip(sorted(set(self.feature_layers)), found, strict=True))
        return [patch_tokens(of_layer[layer], grid) for layer in self.feature_layers]

    def _join(
        self, patches: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt and patches in one sequence `(B, prompt_length + N, d)`, its 0/1 mask, and the places of the patches
        in it, `(B, N)`."""
        embeddings, mask = self._embed_prompt(patches, input_ids, attention_mask)
        sequence = torch.cat([embeddings, patches], dim=1)  # (B, prompt_length + N, d)
        mask = F.pad(mask, (0, patches.shape[1]), value=1)

        # Padding moves behind the patches, wherever the tokenizer put it. So every row is numbered from 0 without a
        # gap, and depth does not depend on what the other rows of the batch are asked, for any kind of position
        # (learned, rotary, sliding window) and for decoders as well.
        places = torch.where(mask > 0, mask.cumsum(1) - 1, mask.sum(1, keepdim=True) + (1 - mask).cumsum(1) - 1)
        sequence = torch.zeros_like(sequence).scatter_(1, places[..., None].expand_as(sequence), sequence)
        return sequence, torch.zeros_like(mask).scatter_(1, places, mask), places[:, -patches.shape[1] :]

    def _read(
        self,
        sequence: Tensor,
        mask: Tensor,
        patch_places: Tensor,
        output_attentions: bool,
        output_hidden_states: bool | list[int] | None,
    ) -> tuple[ModelOutput, Tensor]:
        """The language model's output over a sequence, and its states of the patches, `(B, N, hidden_size)`."""
        options = {"output_attentions": True} if output_attentions else {}
        outputs = self.language_model(
            inputs_embeds=sequence,
            attention_mask=mask,
            output_hidden_states=bool(output_hidden_states),
            **options,
        )
        states = outputs.last_hidden_state
        return outputs, states.gather(1, patch_places[..., None].expand(-1, -1, states.shape[-1]))

    def _embed_prompt(
        self, patches: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded prompts `(B, prompt_length, d)` and their 0/1 mask `(B, prompt_length)`."""
        batch_size = patches.shape[0]
        if not self.config.use_prompt:
            return patches[:, :0], patches.new_zeros((batch_size, 0), dtype=torch.long)
        if input_ids is None:
            default_prompt = torch.tensor(self.config.default_prompt_ids, device=patches.device)
            input_ids, attention_mask = default_prompt.expand(batch_size, -1), None
        if input_ids.ndim != 2 or input_ids.shape[0] != batch_size:
            raise ValueError(
                f"`input_ids` is {tuple(input_ids.shape)} for {batch_size} images; it must be (batch_size, "
                "prompt_length), one prompt for each image."
            )
        if input_ids.shape[1] > self.config.max_prompt_length:
            raise ValueError(
                f"`input_ids` has {input_ids.shape[1]} tokens; the model takes at most `config.max_prompt_length`, "
                f"{self.config.max_prompt_length}. Give the processor the same `max_prompt_length`."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` is {tuple(attention_mask.shape)} but `input_ids` is {tuple(input_ids.shape)}; the "
                "two must have one shape."
            )
        embeddings = self.get_input_embeddings()(input_ids).to(patches.dtype)
        return embeddings, (attention_mask > 0).long()

    def _depth(self, logits: Tensor) -> Tensor:
        """Logits to depth, in float32 (or float64): half precision would round metres to 0.4 %."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.config.depth_estimation_type == "relative":
            return F.softplus(logits) + self.config.min_depth
        min_depth, max_depth = self.config.min_depth, self.config.max_depth
        return min_depth + (max_depth - min_depth) * logits.sigmoid()

    def _loss(self, predicted_depth: Tensor, labels: Tensor) -> Tensor:
        if labels.ndim != 3 or labels.shape[0] != predicted_depth.shape[0]:
            raise ValueError(
                f"`labels` is {tuple(labels.shape)} for {predicted_depth.shape[0]} images; it must be (batch_size, "
                "height, width) in metres, 0 where depth is missing."
            )
        # The prediction is resized, never the labels: interpolating them would invent depth across holes and edges.
        resized = resize_map(predicted_depth.unsqueeze(1), tuple(labels.shape[-2:])).squeeze(1)
        config = self.config
        if config.depth_estimation_type == "relative":
            return silog_loss(resized, labels, variance_focus=1.0, reduction=config.loss_reduction)
        measure = {"max_depth": config.max_depth, "reduction": config.loss_reduction}
        loss = silog_loss(resized, labels, config.variance_focus, **measure)
        if config.relative_weight > 0:
            loss = loss + config.relative_weight * relative_loss(resized, labels, **measure)
        return loss

    @torch.no_grad()
    def convert_prototypes(self, parametrization: str) -> "LLMMDEForDepthEstimation":
        r"""
        Changes how the text prototypes are parametrised without changing the prototypes: `"vocabulary"` to `"compact"`
        as $A = M Q$, and back as $M = A Q^\top$, the smallest such map. In place; returns the model.

        Raises:
            ValueError: If `parametrization` is neither of the two.
        """
        if parametrization not in ("compact", "vocabulary"):
            raise ValueError(f"`parametrization` is {parametrization!r}; it must be 'compact' or 'vocabulary'.")
        if parametrization == self.config.prototype_parametrization:
            return self
        word_embeddings = self.get_input_embeddings().weight
        old, prototypes = self.text_prototypes, self.text_prototypes(self.word_basis(word_embeddings))
        q, r = embedding_basis(word_embeddings)
        in_basis = weights_in_basis(prototypes, r)  # A, whichever way the prototypes were written before
        vocab_size = word_embeddings.shape[0]
        self.config.prototype_parametrization = parametrization
        self.word_basis = LLMMDEWordBasis(self.config, vocab_size).to(old.weight)
        self.word_basis.reset_parameters(word_embeddings)
        self.text_prototypes = LLMMDETextPrototypes(self.config, vocab_size).to(old.weight)
        self.text_prototypes.weight.copy_(in_basis if parametrization == "compact" else in_basis @ q.T)
        self.train(self.training)
        return self

    @torch.no_grad()
    def nearest_words(self, prototype: int, k: int = 10) -> list[tuple[int, float]]:
        r"""
        The words a prototype is made of, strongest first.

        The map $m = P_i R^{-1} Q^\top$ is the smallest combination of words that gives prototype $i$. A word's share
        is compared with the share it has in its own embedding, since rare directions of $E$ carry more: the score is
        the cosine between the prototype and the word after $E$ has been whitened. It does not depend on the
        parametrisation, and is 1 for a prototype that is one word.

        Args:
            prototype (`int`): Which prototype, from 0.
            k (`int`, *optional*, defaults to 10): How many words.

        Returns:
            `list[tuple[int, float]]`: Token ids with their score in [-1, 1]; a tokenizer's `convert_ids_to_tokens`
            spells them.

        Raises:
            ValueError: If `prototype` or `k` is out of range.
        """
        word_embeddings = self.get_input_embeddings().weight
        prototypes = self.text_prototypes(self.word_basis(word_embeddings))
        if not 0 <= prototype < prototypes.shape[0]:
            raise ValueError(f"`prototype` is {prototype}; it must be in [0, {prototypes.shape[0]}).")
        if not 1 <= k <= word_embeddings.shape[0]:
            raise ValueError(f"`k` is {k}; it must be in [1, {word_embeddings.shape[0]}], the vocabulary.")
        q, r = embedding_basis(word_embeddings)
        scores = F.cosine_similarity(weights_in_basis(prototypes[prototype : prototype + 1], r), q, dim=-1)
        best = scores.topk(k)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _rest(module: nn.Module) -> None:
    """Puts a module and all in it into evaluation mode, but for adapters, which are trained, and for what is
    checkpointed, as Transformers does that in training mode only."""
    if hasattr(module, "adapter_layer_names"):
        return
    module.training = bool(getattr(module, "gradient_checkpointing", False))
    for child in module.children():
        _rest(child)


def _select(hidden_states: tuple[Tensor, ...], selection: bool | list[int] | None) -> tuple[Tensor | None, ...] | None:
    if selection is None or isinstance(selection, bool):
        return hidden_states if selection else None
    kept = {index % len(hidden_states) for index in selection}
    return tuple(state if index in kept else None for index, state in enumerate(hidden_states))


def _default_head_sizes(vision_width: int) -> list[int]:
    """(256, 128, 64, 32, 16) for ViT-B."""
    return [max(8, round(vision_width / 3 / 2**stage / 8) * 8) for stage in range(5)]


def _default_feature_layers(num_layers: int, count: int) -> list[int]:
    """(3, 6, 9, 12) for ViT-B: equal distances, ending with the last; a shallow encoder repeats layers."""
    return [max(1, round(num_layers * (index + 1) / count)) for index in range(count)]


def _encoder_from_config(config) -> PreTrainedModel:
    return AutoModel.from_config(config, **_without_pooler(config))


def _encoder_from_pretrained(name: str, part: str, dtype: torch.dtype) -> PreTrainedModel:
    """One encoder of a checkpoint; of CLIP, SigLIP and other pairs the tower named by `part`."""
    config = AutoConfig.from_pretrained(name)
    config = getattr(config, part, config)
    (prepare_vision_config if part == "vision_config" else prepare_text_config)(config)
    model_class = MODEL_MAPPING[type(config)]
    options = {"dtype": dtype, "output_loading_info": True, **_without_pooler(config)}
    encoder, info = model_class.from_pretrained(name, config=config, **options)
    if info["missing_keys"]:
        raise ValueError(
            f"`{part.removesuffix('_config')}` is {name!r}, which has no weights for {len(info['missing_keys'])} of a "
            f"{model_class.__name__}, such as {min(info['missing_keys'])!r}: they would be random. Save that part of "
            "it on its own with `save_pretrained`, and pass the folder."
        )
    return encoder


def _without_pooler(config) -> dict[str, bool]:
    """The option that leaves out a pooling layer, which nothing here reads, where the encoder has it."""
    model_class = MODEL_MAPPING[type(config)]
    accepted = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def _spell_default_prompt(text: str, overrides: dict) -> list[int] | None:
    default_prompt = (
        overrides.get("default_prompt") or inspect.signature(LLMMDEConfig).parameters["default_prompt"].default
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(text)
    except (OSError, ValueError) as error:
        logger.warning(f"`text` {text!r} has no tokenizer, so the default prompt cannot be spelled: {error}")
        return None
    most = overrides.get("max_prompt_length")
    limit = {} if most is None else {"truncation": True, "max_length": most}
    ids = tokenizer(default_prompt, **limit)["input_ids"]
    # Where a folder has no tokenizer, Transformers 5.23 makes one up that knows special tokens alone.
    if not set(ids) - set(tokenizer.all_special_ids):
        logger.warning(f"`text` {text!r} has a tokenizer that knows no word of the default prompt.")
        return None
    return ids


__all__ = ["LLMMDEDepthEstimatorOutput", "LLMMDEForDepthEstimation", "LLMMDEPreTrainedModel"]
