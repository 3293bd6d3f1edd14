"""Ablations by surgery: parts of a built LLM-MDE are replaced by stand-ins with the same call signature.

What is changed here cannot be saved and loaded again as an LLM-MDE; studies train it and measure it at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from llm_mde.reprogramming_llm_mde import LLMMDETextPrototypes, LLMMDEWordBasis
from llm_mde.training.adapters import NEW_LAYERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_mde import LLMMDEForDepthEstimation

# Words of depth and of the geometry of scenes, for `depth_word_ids`. What a tokenizer cuts into pieces is left out.
DEPTH_AND_GEOMETRY_WORDS = """
    depth deep deeper shallow distance distant far farther further near nearer nearest close closer closest remote
    range away beyond behind front back background foreground ahead before above below under over beside between
    inside outside top bottom left right center middle edge corner border boundary side surface plane flat curved
    round straight parallel vertical horizontal diagonal slope angle perspective horizon view scale size big small
    large little giant huge tiny high low tall short long wide narrow thick thin height width length volume space
    area meter meters metre metres foot feet inch inches mile miles kilometer camera lens focal image pixel scene
    object wall floor ceiling ground sky room road street shadow shade light dark bright texture occluded hidden
    visible unseen point line grid patch extremely
"""


class LinearProjection(nn.Module):
    """In the place of `LLMMDEReprogramming`: patches projected to the word embedding space, no prototype is read."""

    def __init__(self, patch_width: int, width: int):
        super().__init__()
        self.to_embedding = nn.Linear(patch_width, width)

    def forward(self, patches: Tensor, prototypes: None, output_attentions: bool = False) -> tuple[Tensor, None]:
        """`(B, N, D)` to `(B, N, d)`."""
        return self.to_embedding(patches), None


class NoPrototypes(nn.Module):
    """In the place of `LLMMDETextPrototypes`, where nothing reads them."""

    def forward(self, basis: Tensor) -> None:
        return None


class PassThrough(nn.Module):
    """In the place of the language model: hands its input on. The frozen word embeddings stay for the prototypes.

    Every patch keeps what it was, so no prompt has an influence. Where the language model's states are wider or
    narrower than its embeddings (ALBERT, ELECTRA), they are filled up with zeros or cut, without weights.
    """

    def __init__(self, embeddings: nn.Embedding, hidden_size: int):
        super().__init__()
        self.embeddings = embeddings.requires_grad_(False)
        self.hidden_size = hidden_size

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, inputs_embeds: Tensor, **options) -> BaseModelOutput:
        missing = self.hidden_size - inputs_embeds.shape[-1]
        return BaseModelOutput(last_hidden_state=nn.functional.pad(inputs_embeds, (0, missing)))


@torch.no_grad()
def reinitialise(model: "LLMMDEForDepthEstimation", parts: Sequence[str] = NEW_LAYERS[::-1]) -> None:
    """Draws parts anew, as a new model does; by default head first, so that equal seeds give equal heads whatever the
    size of what is drawn after it."""
    for part in parts:
        for module in model.get_submodule(part).modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # loading from a folder had marked it as not to be touched
            model._init_weights(module)


def project_linearly(model: "LLMMDEForDepthEstimation") -> None:
    """Replaces reprogramming by one linear layer; the prototypes, which it does not read, go as well."""
    patch_width = model.reprogramming.patch_query.in_features
    model.reprogramming = LinearProjection(patch_width, model.config.word_embedding_size).to(model.dtype)
    model._init_weights(model.reprogramming.to_embedding)
    model.text_prototypes = NoPrototypes()


def remove_language_model(model: "LLMMDEForDepthEstimation") -> None:
    """Takes all layers of the language model away; its word embeddings stay, frozen."""
    model.language_model = PassThrough(model.get_input_embeddings(), model.config.text_config.hidden_size)


def resize_prototypes(model: "LLMMDEForDepthEstimation", num_prototypes: int) -> None:
    """Another number of new text prototypes."""
    model.config.num_prototypes = num_prototypes
    _replace_prototypes(model, model.text_prototypes.vocab_size)


def restrict_prototypes(model: "LLMMDEForDepthEstimation", token_ids: Sequence[int]) -> None:
    """New text prototypes that are maps of these words alone: the same two modules (in the compact parametrisation)
    for a vocabulary that consists of them."""
    model.config.prototype_parametrization = "compact"
    words = model.get_input_embeddings().weight[list(token_ids)].detach()
    model.word_basis = LLMMDEWordBasis(model.config, len(words)).to(words)
    model.word_basis.reset_parameters(words)
    _replace_prototypes(model, len(words))


def depth_word_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids of those words of depth and geometry that the tokenizer has as a whole, at the start or inside of a text.

    Raises:
        ValueError: If it has none of them.
    """
    spellings = [spelling for word in DEPTH_AND_GEOMETRY_WORDS.split() for spelling in (word, f" {word}")]
    tokens = (tokenizer(spelling, add_special_tokens=False)["input_ids"] for spelling in spellings)
    ids = sorted({ids[0] for ids in tokens if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
    if not ids:
        raise ValueError("`tokenizer` has no word of depth or geometry as a whole; study a model with an English one.")
    return ids


def random_word_ids(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, count: int, seed: int) -> list[int]:
    """As many different ids, drawn from the vocabulary without the tokenizer's special tokens."""
    special = set(tokenizer.all_special_ids)
    ids = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted([index for index in ids if index not in special][:count])


def _replace_prototypes(model: "LLMMDEForDepthEstimation", vocab_size: int) -> None:
    model.text_prototypes = LLMMDETextPrototypes(model.config, vocab_size).to(model.text_prototypes.weight)
    model.text_prototypes.reset_parameters()


__all__ = [
    "DEPTH_AND_GEOMETRY_WORDS",
    "LinearProjection",
    "NoPrototypes",
    "PassThrough",
    "depth_word_ids",
    "project_linearly",
    "random_word_ids",
    "reinitialise",
    "remove_language_model",
    "resize_prototypes",
    "restrict_prototypes",
]
