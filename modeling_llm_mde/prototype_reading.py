"""What a region of a photograph reads: the text prototypes its patches attend to, and the words these are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .modeling_llm_mde import grid_for_language
from .reprogramming_llm_mde import ExactMemo, embedding_basis, weights_in_basis

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_mde import LLMMDEForDepthEstimation


@dataclass(frozen=True)
class PrototypeShare:
    """How much of a region's attention one text prototype gets.

    Attributes:
        prototype (`int`): Which prototype, from 0.
        share (`float`): Its part of the attention, 0 to 1; those of all prototypes sum to 1.
        words (`list[tuple[str, float]]`): What it is made of, strongest first, with the scores of
            `model.nearest_words`.
    """

    prototype: int
    share: float
    words: list[tuple[str, float]]


class PrototypeReader:
    """
    Spells what patches of a photograph read of a model's text prototypes.

    `model.nearest_words` factorises all word embeddings in each call, about a second with BERT's vocabulary. Here that
    is done once for as long as they stay as they are, on the CPU wherever the model is.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model; may be trained or given an adapter in between.
        tokenizer (`PreTrainedTokenizerBase`): The one of its processor.

    Example:

    ```python
    >>> from llm_mde.prototype_reading import PrototypeReader, patch_of_pixel

    >>> reader = PrototypeReader(model, processor.tokenizer)
    >>> outputs = model(**inputs, output_prototype_attentions=True)
    >>> patch = patch_of_pixel(320, 200, image.size[::-1], reader.patch_grid(inputs["pixel_values"]))
    >>> for each in reader.read(outputs.prototype_attentions[0], [patch]):
    ...     print(f"{each.share:.1%}", *(word for word, _ in each.words))
    ```
    """

    def __init__(self, model: "LLMMDEForDepthEstimation", tokenizer: "PreTrainedTokenizerBase"):
        self.model = model
        self.tokenizer = tokenizer
        self._memo = ExactMemo()

    def patch_grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches that the language model reads of `(batch_size, 3, height, width)` images."""
        return grid_for_language(self.model.vision_layout.grid(pixel_values), self.model.config)

    @torch.no_grad()
    def read(
        self, prototype_attentions: Tensor, patches: Sequence[int] | slice, k_prototypes: int = 5, k_words: int = 6
    ) -> list[PrototypeShare]:
        """
        The prototypes that a region reads most, the mean over its patches and all heads.

        Args:
            prototype_attentions (`torch.Tensor` of shape `(num_heads, num_patches, num_prototypes)`): Those of one
                image, `outputs.prototype_attentions[i]`.
            patches (`Sequence[int]` or `slice`): The region, in patches from the top left, row by row;
                `slice(None)` is the whole image.
            k_prototypes (`int`, *optional*, defaults to 5): How many prototypes, or all if there are fewer.
            k_words (`int`, *optional*, defaults to 6): How many words of each.

        Returns:
            `list[PrototypeShare]`: The strongest first.

        Raises:
            ValueError: If the attentions are not those of one image and this model, no patch or one that is not there
                is asked for, or a number is out of range.
        """
        word_embeddings = self.model.get_input_embeddings().weight
        prototypes = self.model.text_prototypes(self.model.word_basis(word_embeddings))
        if prototype_attentions.ndim != 3 or prototype_attentions.shape[-1] != len(prototypes):
            raise ValueError(
                f"`prototype_attentions` is {tuple(prototype_attentions.shape)}; pass those of one image, (num_heads, "
                f"num_patches, {len(prototypes)})."
            )
        if k_prototypes < 1:
            raise ValueError(f"`k_prototypes` is {k_prototypes}; pass at least 1.")
        if not 1 <= k_words <= len(word_embeddings):
            raise ValueError(f"`k_words` is {k_words}; it must be in [1, {len(word_embeddings)}], the vocabulary.")
        num_patches = prototype_attentions.shape[1]
        region = list(range(num_patches)[patches]) if isinstance(patches, slice) else list(patches)
        if not region or not all(0 <= patch < num_patches for patch in region):
            raise ValueError(f"`patches` is {patches}; pass one or more in [0, {num_patches}).")

        shares = prototype_attentions[:, region].float().mean(dim=(0, 1))
        best = shares.topk(min(k_prototypes, len(shares)))
        words = self._nearest_words(word_embeddings, prototypes[best.indices.to(prototypes.device)], k_words)
        return list(map(PrototypeShare, best.indices.tolist(), best.values.tolist(), words))

    def _nearest_words(self, word_embeddings: Tensor, prototypes: Tensor, k: int) -> list[list[tuple[str, float]]]:
        """As `model.nearest_words`, for several prototypes `(num, d)` at once, and spelled."""
        word_embeddings = word_embeddings.detach().cpu()

        def factorise() -> tuple[Tensor, Tensor]:
            q, r = embedding_basis(word_embeddings)
            return F.normalize(q, dim=-1), weights_in_basis(torch.eye(r.shape[-1]), r)

        words, in_basis = self._memo(factorise, [word_embeddings])  # (vocabulary, rank) and (d, rank)
        scores = F.normalize(prototypes.cpu().float() @ in_basis, dim=-1) @ words.T  # (num, vocabulary)
        best = scores.topk(k)
        return [
            list(zip(map(self._spell, ids), values, strict=True))
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _spell(self, token_id: int) -> str:
        """A word without the mark that some vocabularies put in front of it; the token itself if nothing is left."""
        return self.tokenizer.decode([token_id]).strip() or str(self.tokenizer.convert_ids_to_tokens(token_id))


def patch_of_pixel(x: int, y: int, image_size: tuple[int, int], patch_grid: tuple[int, int]) -> int:
    """
    The patch that shows a pixel of the photograph.

    The image processor neither crops nor pads, so each patch covers the same part of the photograph, whether it was
    resized with its aspect ratio or without. Where patches were pooled for the language model and do not divide
    evenly, a pixel belongs to the nearest one.

    Args:
        x, y (`int`): Column and row of the pixel in the upright photograph, from the top left.
        image_size (`tuple[int, int]`): Height and width of the photograph.
        patch_grid (`tuple[int, int]`): Rows and columns of patches: [`PrototypeReader.patch_grid`].

    Returns:
        `int`: Which patch, counted row by row.

    Raises:
        ValueError: If the pixel lies outside the photograph.
    """
    (height, width), (rows, columns) = image_size, patch_grid
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"`x`, `y` is ({x}, {y}), outside the photograph of {width} x {height} pixels.")
    return int((y + 0.5) * rows / height) * columns + int((x + 0.5) * columns / width)


__all__ = ["PrototypeReader", "PrototypeShare", "patch_of_pixel"]
