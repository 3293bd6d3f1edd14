"""The release of the paper's authors, where a clone of it is at hand: loaded and patched as it runs, never copied.

Its class downloads three pretrained models when it is built and imports CLIP, which it does not use. Here it gets
random weights of the same sizes and an empty module instead. Everything that it computes is its own.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from llm_mde.training.small_model import build_tokenizer

from .contenders import FULL_PROMPT_LENGTH, Size, size_text

_MODULE = "LanguageMono"
_UNUSED = ("depth.clip", "einops")  # imported by the release, but nothing that is called here reads them
# Flags of its training command (configs/arguments_train_nyu.txt), and the defaults of main.py for the others.
_SETTINGS = {
    "llm_model": "BERT",
    "llm_layers": 4,  # of a BERT that gives word embeddings alone; the one that reads always has twelve
    "rank": 160,
    "alpha": 320,
    "Microsoft_LoRA": 32,
    "n_heads": 24,
    "d_ff": 768,
    "prompt_domain": False,
    "content": " ",
}
_SEEN, _NUM_PATCHES = (224, 224), 196  # by its encoders


@dataclass(frozen=True)
class Authors:
    """The release in `folder`. Its encoders read 224 x 224 pixels and 310 tokens, whatever it is given.

    Raises:
        ValueError: If there is no such release in the folder.
        ImportError: If `loralib`, which it is made with, is not installed.
    """

    folder: Path
    name: str = "authors' release"
    sizes: dict[str, Size] = field(default_factory=lambda: {"224x224": (224, 224), "480x640": (480, 640)})
    reads_values = True

    def __post_init__(self):
        if not (self.folder / f"{_MODULE}.py").is_file():
            raise ValueError(
                f"`authors` is {str(self.folder)!r}, which has no {_MODULE}.py; give a clone of "
                "github.com/651784766/LLM-MDE."
            )
        if find_spec("loralib") is None:
            raise ImportError("the authors' release needs loralib: pip install loralib.")

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        with _without_downloads(self.folder):
            from LanguageMono import Language4Depth

            module = Language4Depth(SimpleNamespace(**_SETTINGS), prompt=True, LoRA=True)
        # Cut to the length that its last layers are built for, which the words of BERT's vocabulary happen to give.
        module.tokenizer = partial(_spell, build_tokenizer())
        return module.eval()

    def inputs(self, size: Size, batch_size: int) -> dict[str, Tensor]:
        return {"x": torch.rand(batch_size, 3, *size)}

    def reads(self, size: Size) -> str:
        pixels = size_text(size) if size == _SEEN else f"{size_text(size)}, encoders {size_text(_SEEN)}"
        return f"{pixels}, {FULL_PROMPT_LENGTH} + {_NUM_PATCHES} tokens"


def _spell(tokenizer, texts: list[str], **options):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=FULL_PROMPT_LENGTH, return_tensors="pt")


@contextmanager
def _without_downloads(folder: Path) -> Iterator[None]:
    """Imports from the folder; pretrained models are random, and modules that are not used may be missing."""
    import timm
    from transformers import BertConfig, BertModel, BertTokenizer

    create_model = timm.create_model

    def create_untrained(name: str, pretrained: bool = False, **options) -> nn.Module:
        return create_model(name, **options)

    def untrained_bert(name: str, config: BertConfig | None = None, **options) -> BertModel:
        return BertModel(config or BertConfig())

    before = set(sys.modules)
    for name in _UNUSED:
        sys.modules.setdefault(name, ModuleType(name)).__dict__.setdefault("rearrange", None)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "path", [str(folder), *sys.path]))
        stack.enter_context(mock.patch.object(timm, "create_model", create_untrained))
        stack.enter_context(mock.patch.object(BertModel, "from_pretrained", untrained_bert))
        stack.enter_context(mock.patch.object(BertConfig, "from_pretrained", lambda name: BertConfig()))
        stack.enter_context(mock.patch.object(BertTokenizer, "from_pretrained", lambda *_, **__: build_tokenizer()))
        try:
            yield
        finally:  # names as general as `depth` must not stay; folders without an __init__.py have no file of their own
            added = {name: sys.modules[name] for name in set(sys.modules) - before}
            places = {name: getattr(module, "__file__", None) or "" for name, module in added.items()}
            own = {name.partition(".")[0] for name, place in places.items() if place.startswith(str(folder))}
            for name in added:
                if name in _UNUSED or name.partition(".")[0] in own:
                    del sys.modules[name]


__all__ = ["Authors"]
