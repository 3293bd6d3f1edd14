"""Cross-modal reprogramming: text prototypes made of words, and the attention by which patches read them."""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_llm_mde import LLMMDEConfig

_LARGEST_COPY = 2**24  # bytes: larger inputs, such as all word embeddings, are remembered by a digest


class ExactMemo:
    """Remembers one result for as long as every tensor it was computed from is unchanged, bit for bit.

    Version counters and storage addresses miss changes made through `.data`, as merging an adapter makes them, so the
    tensors themselves are kept and compared, or the SHA-256 of large ones, which would take their memory twice. Either
    reads each weight once, where computing multiplies with it once for every prototype. Used on the CPU, outside
    training and tracing; on an accelerator the comparison would make the host wait for the device. The memo is no
    module and no buffer: checkpoints, copies and pickles leave it behind.
    """

    def __init__(self):
        self._entry = None

    def __getstate__(self) -> dict:
        return {"_entry": None}

    def __call__(self, compute: Callable[[], tuple[Tensor, ...]], inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """`compute()`, or what it gave before if `inputs`, all that it reads, are as they were then."""
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(tensor.device.type != "cpu" for tensor in inputs)
        ):
            self._entry = None
            return compute()
        context = (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
        entry = self._entry  # read once: another thread may replace it
        if entry is not None:
            seen_context, seen, result = entry
            if seen_context == context and len(seen) == len(inputs) and all(map(_is_as_seen, seen, inputs)):
                return result
        result = compute()
        self._entry = (context, [_as_seen(tensor) for tensor in inputs], result)
        return result


def _as_seen(tensor: Tensor) -> tuple:
    """What tells later whether a tensor is still the same."""
    content = tensor.detach().clone() if tensor.nbytes <= _LARGEST_COPY else _digest(tensor)
    return tensor.dtype, tensor.shape, content


def _is_as_seen(seen: tuple, tensor: Tensor) -> bool:
    dtype, shape, content = seen
    if (dtype, shape) != (tensor.dtype, tensor.shape):
        return False
    return torch.equal(content, tensor) if isinstance(content, Tensor) else content == _digest(tensor)


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy()).digest()


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer is what its parameters say: no adapter around it, nothing loading its weights on the fly."""
    return type(module) in (nn.Linear, nn.LayerNorm) and not hasattr(module, "_hf_hook")


class LLMMDEWordBasis(nn.Module):
    r"""What the text prototypes are linear maps of: rows that span the frozen word embeddings.

    With word embeddings $E$ of shape (vocabulary, d) the paper learns a map $M$ of shape (prototypes, vocabulary) and
    reads $P = M E$: 30.5 M weights for BERT, and 47 GFLOP each time. That is the `vocabulary` parametrisation, whose
    basis is $E$ itself. `compact` reaches the same prototypes: with the thin QR factorisation $E = Q R$ they are
    $M E = (M Q) R = A R$. Its basis is $R$, of shape (d, d), and only $A$, of shape (prototypes, d), is learned.
    Gradient descent on $A$, weight decay included, moves $P$ exactly as gradient descent on $M$ does, since the
    gradient of $A$ is that of $M$ times $Q$, and $R^\top R = E^\top E$. ($Q$ is not stored; it is $E R^{-1}$.)

    $R$ belongs to the language model rather than to what is learned, so an adapter need not carry it.
    """

    def __init__(self, config: LLMMDEConfig, vocab_size: int):
        super().__init__()
        self.weight = None
        if config.prototype_parametrization == "compact":
            rank = min(vocab_size, config.word_embedding_size)
            self.weight = nn.Parameter(torch.empty(rank, config.word_embedding_size), requires_grad=False)

    @torch.no_grad()
    def reset_parameters(self, word_embeddings: Tensor) -> None:
        if self.weight is not None and not getattr(self.weight, "_is_hf_initialized", False):
            self.weight.copy_(embedding_basis(word_embeddings)[1])

    def train(self, mode: bool = True) -> "LLMMDEWordBasis":
        """Stays frozen in either mode: `from_pretrained` marks all it loads as trainable, then calls `eval()`."""
        self.requires_grad_(False)
        return super().train(mode)

    def forward(self, word_embeddings: Tensor | None) -> Tensor:
        """The basis, `(rank, d)`, of `(vocabulary, d)` word embeddings, which `compact` does not read; no gradient
        reaches them through it."""
        return word_embeddings.detach() if self.weight is None else self.weight


class LLMMDETextPrototypes(nn.Module):
    """Text prototypes, a learned linear map of the frozen word embeddings (LLM-MDE, Sec. 3; Time-LLM, Sec. 3.1).

    The map has no bias, unlike the authors' release: it would shift all components of a prototype by one number, which
    the normalisation in front of the attention takes out again.
    """

    def __init__(self, config: LLMMDEConfig, vocab_size: int):
        super().__init__()
        compact = config.prototype_parametrization == "compact"
        rank = min(vocab_size, config.word_embedding_size) if compact else vocab_size
        self.weight = nn.Parameter(torch.empty(config.num_prototypes, rank))
        self.vocab_size = vocab_size
        self._memo = ExactMemo()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        # The variance of PyTorch's linear layer over all words; the same for A, as the columns of Q are orthonormal.
        init.normal_(self.weight, mean=0.0, std=1.0 / math.sqrt(3 * self.vocab_size))

    @torch.no_grad()
    def resize_vocabulary(self, config: LLMMDEConfig, vocab_size: int) -> None:
        """Takes over a number of words; a map from all of them gets columns of zeros, or loses its last ones."""
        if config.prototype_parametrization == "vocabulary":
            weight = F.pad(self.weight, (0, vocab_size - self.weight.shape[1]))
            self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        self.vocab_size = vocab_size

    def forward(self, basis: Tensor) -> Tensor:
        """Prototypes of shape `(num_prototypes, d)` from the `(rank, d)` word basis."""
        (prototypes,) = self._memo(lambda: (self.weight @ basis,), [self.weight, basis])
        return prototypes


class LLMMDEReprogramming(nn.Module):
    """Cross-modal reprogramming: every patch attends to the text prototypes (LLM-MDE, Sec. 3).

    Multi-head attention with queries from patches, keys and values from prototypes, each with a projection of its own
    (the authors' release computes a value projection and then uses the keys as values). The prototypes are normalised
    first, so that the attention starts neither flat nor peaked whatever the scale of the word embeddings.
    """

    def __init__(self, config: LLMMDEConfig, patch_width: int):
        super().__init__()
        width = config.word_embedding_size
        self.num_heads = config.reprogramming_num_heads
        self.prototype_norm = nn.LayerNorm(width)
        self.patch_query = nn.Linear(patch_width, width)
        self.prototype_key = nn.Linear(width, width)
        self.prototype_value = nn.Linear(width, width)
        self.to_embedding = nn.Linear(width, width)
        self._memo = ExactMemo()

    def project_prototypes(self, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each `(num_heads, num_prototypes, head_width)`, computed once for unchanged weights."""
        layers = (self.prototype_norm, self.prototype_key, self.prototype_value)

        def project() -> tuple[Tensor, Tensor]:
            normed = self.prototype_norm(prototypes)
            key, value = self.prototype_key(normed), self.prototype_value(normed)
            return tuple(x.unflatten(-1, (self.num_heads, -1)).transpose(0, 1) for x in (key, value))

        if not all(map(_is_plain, layers)):
            return project()
        return self._memo(project, [prototypes, *(p for layer in layers for p in layer.parameters())])

    def forward(
        self, patches: Tensor, prototypes: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Patches `(B, N, D)` in the language model's embedding space, `(B, N, d)`, and what they read of each
        prototype, `(B, num_heads, N, num_prototypes)`, or `None`."""
        key, value = self.project_prototypes(prototypes)
        query = self.patch_query(patches).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, width)
        batch_size = query.shape[0]
        key, value = (x.unsqueeze(0).expand(batch_size, -1, -1, -1) for x in (key, value))
        attended = F.scaled_dot_product_attention(query, key, value)
        attentions = None
        if output_attentions:
            attentions = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return self.to_embedding(attended.transpose(1, 2).flatten(2)), attentions


def embedding_basis(word_embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Thin QR factorisation of `(vocabulary, d)` word embeddings in float32, with a positive diagonal of R."""
    q, r = torch.linalg.qr(word_embeddings.float())
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q * signs, r * signs[:, None]


def weights_in_basis(prototypes: Tensor, r: Tensor) -> Tensor:
    """A of P = A R, by least squares: R is no square for a vocabulary smaller than the embedding."""
    return prototypes.float() @ torch.linalg.pinv(r)


__all__ = ["ExactMemo", "LLMMDEReprogramming", "LLMMDETextPrototypes", "LLMMDEWordBasis"]
