"""LLM-MDE configuration: one vision encoder, one language model, and what joins them."""

import math
from typing import Any

from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

FORMAT_VERSION = 2

DEFAULT_PROMPT = (
    "The photograph shows an everyday scene, indoors or outdoors, taken with an ordinary camera. "
    "Task: estimate the depth of every image patch, "
    "the distance in metres from the camera along its viewing direction."
)
SHORT_DEFAULT_PROMPT = "An everyday scene. Depth in metres."  # of models that spend little on the language model
# Both in the vocabulary of bert-base-uncased, the paper's language model.
# fmt: off
BERT_DEFAULT_PROMPT_IDS = {DEFAULT_PROMPT: (
    101, 1996, 9982, 3065, 2019, 10126, 3496, 1010, 24274, 2030, 19350, 1010, 2579, 2007, 2019, 6623, 4950,
    1012, 4708, 1024, 10197, 1996, 5995, 1997, 2296, 3746, 8983, 1010, 1996, 3292, 1999, 3620, 2013, 1996,
    4950, 2247, 2049, 10523, 3257, 1012, 102,
), SHORT_DEFAULT_PROMPT: (101, 2019, 10126, 3496, 1012, 5995, 1999, 3620, 1012, 102)}
# fmt: on
BERT_VOCAB_SIZE = 30522

# Language models that number positions from `pad_token_id + 1`: so many rows of their table are unused.
_POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
# timm families whose constructor takes `dynamic_img_size`, which interpolates their position embeddings.
_TIMM_DYNAMIC_SIZE = ("deit", "eva02", "flexivit", "vit_")
_TIMM_RELATIVE_POSITIONS = ("vit_relpos", "vit_srelpos")  # which have none to interpolate


class LLMMDEConfig(PretrainedConfig):
    r"""
    Configuration of [`LLMMDEForDepthEstimation`]. The defaults are the paper's (LLM-MDE, arXiv 2409.01133): ViT-B/16
    at 224 x 224, a 12-layer BERT-base, 1000 text prototypes.

    Args:
        vision_config (`PretrainedConfig` or `dict`, *optional*, defaults to `ViTConfig()`):
            Any encoder that turns an image into one token per patch, possibly behind some special tokens: ViT, DeiT,
            DINOv2 (with or without registers), SigLIP vision, or a timm ViT through `TimmWrapperConfig`.
        text_config (`PretrainedConfig` or `dict`, *optional*, defaults to `BertConfig()`):
            Any encoder-only or decoder-only language model that `AutoModel` builds.
        num_prototypes (`int`, *optional*, defaults to 1000):
            Number of text prototypes the patches attend to.
        prototype_parametrization (`str`, *optional*, defaults to `"compact"`):
            `"vocabulary"` learns the paper's map from all words to the prototypes (vocabulary size x `num_prototypes`
            weights). `"compact"` learns the same functions on a basis of the word embeddings (embedding size x
            `num_prototypes` weights); see [`LLMMDEWordBasis`].
        reprogramming_num_heads (`int`, *optional*):
            Attention heads of the reprogramming layer; must divide the word embedding size. Defaults to the language
            model's own number of heads.
        use_prompt (`bool`, *optional*, defaults to `True`):
            Whether the language model reads a prompt before the patches. `False` is the paper's ablation.
        default_prompt (`str`, *optional*):
            The prompt that `default_prompt_ids` spell.
        default_prompt_ids (`list[int]`, *optional*):
            Token ids read when the model is called without `input_ids`. Known for the vocabulary of bert-base-uncased;
            [`~LLMMDEForDepthEstimation.from_vision_text_pretrained`] fills them in for any other. Where they are
            unknown, the default prompt is the language model's first-token id alone, and a warning says so.
        max_prompt_length (`int`, *optional*):
            Most tokens a prompt may have. Positions of the language model beyond it are left to the patches; when a
            picture has more patches than that, they are average-pooled for the language model (not for the head).
            Defaults to 128, or a quarter of the language model's positions if that is less, but to no less than the
            default prompt has. With BERT's 512 positions
            pooling starts above 384 patches, for instance above 304 x 320 pixels at patch size 16.
        language_pooling (`int`, *optional*, defaults to 1):
            How many patches in each direction are averaged into one for the language model; the head always gets all
            of them. At 2 it reads a quarter of the patches, at a quarter of the cost.
        vision_feature_layers (`list[int]`, *optional*):
            Encoder layers (1 is the first) whose patch features feed the head, shallow to deep. Defaults to four
            layers at equal distances, ending with the last.
        head_hidden_sizes (`list[int]`, *optional*):
            Channels of the head's stages from the patch grid (first) to full resolution (last), one more than
            `vision_feature_layers`; multiples of 8. Defaults to a third of the encoder's width, halved stage by stage.
        min_depth (`float`, *optional*, defaults to 0.001):
            Smallest depth the model can predict, in metres.
        max_depth (`float`, *optional*, defaults to 10.0):
            Largest depth the model can predict, in metres; labels above it are ignored. 10 for rooms, 80 for streets.
        depth_estimation_type (`str`, *optional*, defaults to `"metric"`):
            `"metric"`: metres between `min_depth` and `max_depth`. `"relative"`: depth up to one unknown factor for
            each image, positive and without upper bound (larger is farther).
        variance_focus (`float`, *optional*, defaults to 0.15):
            $\lambda$ of the SILog loss; at 1 a global scale error costs nothing. Taken over each image, 0.15 forgives
            about as much as the usual 0.85 does over a batch of six. Relative models train with 1.
        loss_reduction (`str`, *optional*, defaults to `"image"`):
            Whether losses are taken over each `"image"`, then averaged, or over all pixels of a `"batch"` as one.
        relative_weight (`float`, *optional*, defaults to 0.0):
            Weight of the mean absolute relative error, added to SILog. Not in the paper; metric models only.
        encoder_dropout (`bool`, *optional*, defaults to `True`):
            Whether the encoders drop out what they were pretrained with during training. Without, frozen features are
            the same in training as afterwards, and the CPU computes attention without writing its weights down.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation for weights that have no rule of their own.
        format_version (`int`, *optional*, defaults to 2):
            Of the weights. From 2 on the head normalises what its last activation reads; models of format 1 stay what
            they are.

    Raises:
        ValueError: If a field is out of range; the message names the field, its value and what is allowed.

    Example:

    ```python
    >>> from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation

    >>> config = LLMMDEConfig(max_depth=80.0)  # ViT-B/16, BERT-base, a street
    >>> model = LLMMDEForDepthEstimation(config)  # random weights
    ```
    """

    model_type = "llm_mde"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "hidden_states",
        "attentions",
        "language_model_output",
        "prototype_attentions",
    ]

    def __init__(
        self,
        vision_config: PretrainedConfig | dict | None = None,
        text_config: PretrainedConfig | dict | None = None,
        num_prototypes: int = 1000,
        prototype_parametrization: str = "compact",
        reprogramming_num_heads: int | None = None,
        use_prompt: bool = True,
        default_prompt: str = DEFAULT_PROMPT,
        default_prompt_ids: list[int] | None = None,
        max_prompt_length: int | None = None,
        language_pooling: int = 1,
        vision_feature_layers: list[int] | None = None,
        head_hidden_sizes: list[int] | None = None,
        min_depth: float = 1e-3,
        max_depth: float = 10.0,
        depth_estimation_type: str = "metric",
        variance_focus: float = 0.15,
        loss_reduction: str = "image",
        relative_weight: float = 0.0,
        encoder_dropout: bool = True,
        initializer_range: float = 0.02,
        format_version: int = FORMAT_VERSION,
        **kwargs,
    ):
        self.vision_config = _as_config(vision_config, "vision_config", default="vit")
        self.text_config = _as_config(text_config, "text_config", default="bert")
        prepare_vision_config(self.vision_config)
        prepare_text_config(self.text_config)

        self.num_prototypes = num_prototypes
        self.prototype_parametrization = prototype_parametrization
        if reprogramming_num_heads is None:
            reprogramming_num_heads = math.gcd(self.word_embedding_size, self.text_config.num_attention_heads)
        self.reprogramming_num_heads = reprogramming_num_heads
        self.use_prompt = use_prompt
        self.default_prompt = default_prompt
        self.default_prompt_ids = default_prompt_ids
        if default_prompt_ids is None:
            ids = self._fallback_prompt_ids(default_prompt)
            if max_prompt_length is not None and len(ids) > max_prompt_length > 1:
                ids = [*ids[: max_prompt_length - 1], ids[-1]]  # as a tokenizer cuts, before the last token
            self.default_prompt_ids = ids
        if max_prompt_length is None:
            max_prompt_length = max(1, min(128, (self.max_language_positions or 512) // 4))
            max_prompt_length = max(max_prompt_length, len(self.default_prompt_ids))
        self.max_prompt_length = max_prompt_length
        self.language_pooling = language_pooling
        self.vision_feature_layers = vision_feature_layers
        self.head_hidden_sizes = head_hidden_sizes
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.depth_estimation_type = depth_estimation_type
        self.variance_focus = variance_focus
        self.loss_reduction = loss_reduction
        self.relative_weight = relative_weight
        self.encoder_dropout = encoder_dropout
        self.initializer_range = initializer_range
        self.format_version = format_version
        self.check()

        # Seeds what `save_pretrained` writes, so that every Auto class and the pipeline find the files that travel.
        model = "modeling_llm_mde.LLMMDEForDepthEstimation"
        kwargs.setdefault(
            "auto_map",
            {
                "AutoConfig": "configuration_llm_mde.LLMMDEConfig",
                "AutoModel": model,
                "AutoModelForDepthEstimation": model,
            },
        )
        kwargs.setdefault(
            "custom_pipelines",
            {
                "depth-estimation": {
                    "impl": "pipeline_llm_mde.LLMMDEDepthEstimationPipeline",
                    "pt": ["AutoModelForDepthEstimation"],
                }
            },
        )
        super().__init__(**kwargs)

    @property
    def word_embedding_size(self) -> int:
        """Width of the language model's word embeddings (differs from its hidden size in ALBERT, ELECTRA and OPT)."""
        return getattr(self.text_config, "embedding_size", None) or self.language_state_size

    @property
    def language_state_size(self) -> int:
        """Width of the language model's last states, which OPT projects back to that of its words."""
        return getattr(self.text_config, "word_embed_proj_dim", None) or self.text_config.hidden_size

    @property
    def max_language_positions(self) -> int | None:
        """Longest sequence (prompt and patches) the language model can number; `None` if it sets no limit."""
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if positions is not None and self.text_config.model_type in _POSITIONS_AFTER_PADDING:
            positions -= self.text_config.pad_token_id + 1
        return positions

    @property
    def max_language_patches(self) -> int | None:
        """Most patches the language model reads; a finer patch grid is pooled to it. `None` if there is no limit."""
        if self.max_language_positions is None:
            return None
        return self.max_language_positions - (self.max_prompt_length if self.use_prompt else 0)

    def _fallback_prompt_ids(self, default_prompt: str) -> list[int]:
        text_config = self.text_config
        if (
            text_config.model_type == "bert"
            and text_config.vocab_size == BERT_VOCAB_SIZE
            and default_prompt in BERT_DEFAULT_PROMPT_IDS
        ):
            return list(BERT_DEFAULT_PROMPT_IDS[default_prompt])
        logger.warning_once(
            f"`default_prompt_ids` is not given and unknown for this {text_config.model_type} vocabulary of "
            f"{text_config.vocab_size} words: without `input_ids` the prompt will be a single token. Set it to "
            "`processor.default_prompt_ids()`, or compose the model with `from_vision_text_pretrained`."
        )
        first_token = getattr(text_config, "bos_token_id", None)
        return [first_token if first_token is not None and 0 <= first_token < text_config.vocab_size else 0]

    def check(self) -> None:
        """Refuses values that no model can be built with.

        Raises:
            ValueError: If a field has one; it names the field and what it may be.
        """

        def refuse(name: str, allowed: str) -> None:
            raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be {allowed}.")

        def is_integer(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool)

        def is_number(value: Any) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

        if not is_integer(self.format_version) or not 1 <= self.format_version <= FORMAT_VERSION:
            refuse("format_version", f"between 1 and {FORMAT_VERSION} for this version of llm-mde; update the package")
        if not is_integer(self.num_prototypes) or self.num_prototypes < 1:
            refuse("num_prototypes", "an integer of at least 1")
        if self.prototype_parametrization not in ("compact", "vocabulary"):
            refuse("prototype_parametrization", "'compact' or 'vocabulary'")
        heads = self.reprogramming_num_heads
        if not is_integer(heads) or heads < 1 or self.word_embedding_size % heads != 0:
            refuse("reprogramming_num_heads", f"a divisor of the word embedding size, {self.word_embedding_size}")
        if not isinstance(self.use_prompt, bool):
            refuse("use_prompt", "True or False")
        if not isinstance(self.default_prompt, str):
            refuse("default_prompt", "a string")

        positions = self.max_language_positions
        if not is_integer(self.max_prompt_length) or self.max_prompt_length < 1:
            refuse("max_prompt_length", "an integer of at least 1")
        if positions is not None and self.max_prompt_length >= positions:
            refuse("max_prompt_length", f"below {positions}, the positions of the language model")
        if not is_integer(self.language_pooling) or self.language_pooling < 1:
            refuse("language_pooling", "an integer of at least 1")
        ids, vocab_size = self.default_prompt_ids, self.text_config.vocab_size
        if (
            not isinstance(ids, (list, tuple))
            or not 1 <= len(ids) <= self.max_prompt_length
            or not all(is_integer(i) and 0 <= i < vocab_size for i in ids)
        ):
            refuse(
                "default_prompt_ids",
                f"a list of 1 to {self.max_prompt_length} (`max_prompt_length`) token ids in [0, {vocab_size})",
            )

        layers, sizes = self.vision_feature_layers, self.head_hidden_sizes
        if layers is not None and (
            not isinstance(layers, (list, tuple))
            or len(layers) == 0
            or not all(is_integer(layer) and layer >= 1 for layer in layers)
            or list(layers) != sorted(set(layers))
        ):
            refuse("vision_feature_layers", "a list of layer numbers from 1, increasing, or None")
        if sizes is not None and (
            not isinstance(sizes, (list, tuple))
            or len(sizes) < 2
            or not all(is_integer(size) and size >= 8 and size % 8 == 0 for size in sizes)
        ):
            refuse("head_hidden_sizes", "a list of at least two multiples of 8, or None")
        if layers is not None and len(sizes or [0] * 5) != len(layers) + 1:
            refuse(
                "vision_feature_layers",
                f"one shorter than `head_hidden_sizes`, which has {len(sizes or [0] * 5)} entries",
            )

        if not is_number(self.min_depth) or self.min_depth <= 0:
            refuse("min_depth", "a number of metres above 0")
        if not is_number(self.max_depth) or self.max_depth <= self.min_depth:
            refuse("max_depth", f"a number of metres above `min_depth`, {self.min_depth}")
        if self.depth_estimation_type not in ("metric", "relative"):
            refuse("depth_estimation_type", "'metric' or 'relative'")
        if not is_number(self.variance_focus) or not 0 <= self.variance_focus <= 1:
            refuse("variance_focus", "between 0 and 1")
        if self.loss_reduction not in ("image", "batch"):
            refuse("loss_reduction", "'image' or 'batch'")
        if not is_number(self.relative_weight) or not 0 <= self.relative_weight < math.inf:
            refuse("relative_weight", "a number, 0 or above")
        if self.relative_weight > 0 and self.depth_estimation_type == "relative":
            refuse("relative_weight", "0 where `depth_estimation_type` is 'relative': its scale means nothing")
        if not isinstance(self.encoder_dropout, bool):
            refuse("encoder_dropout", "True or False")
        if not is_number(self.initializer_range) or self.initializer_range <= 0:
            refuse("initializer_range", "a number above 0")


def _as_config(config: PretrainedConfig | dict | None, name: str, default: str) -> PretrainedConfig:
    if config is None:
        return AutoConfig.for_model(default)
    if isinstance(config, dict):
        config = dict(config)
        return AutoConfig.for_model(config.pop("model_type", default), **config)
    if not isinstance(config, PretrainedConfig):
        raise ValueError(
            f"`{name}` is a {type(config).__name__}; pass a transformers configuration, a dictionary with a "
            "'model_type', or None."
        )
    return config


def prepare_vision_config(config: PretrainedConfig) -> None:
    """Leaves out the pooling head, which depth does not read, and lets timm encoders take any image size."""
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    if config.model_type == "timm_wrapper":
        config.do_pooling = False
        if config.architecture.startswith(_TIMM_DYNAMIC_SIZE) and not config.architecture.startswith(
            _TIMM_RELATIVE_POSITIONS
        ):
            config.model_args = {"dynamic_img_size": True, **(config.model_args or {})}


def prepare_text_config(config: PretrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ValueError(
            f"`text_config` is {config.model_type!r}, an encoder-decoder; choose an encoder (BERT, RoBERTa, "
            "ModernBERT, ...) or a decoder (GPT-2, Llama, Qwen, ...)."
        )
    config.use_cache = False  # one pass over the whole sequence: there are no past keys to keep


__all__ = ["LLMMDEConfig", "prepare_text_config", "prepare_vision_config"]
