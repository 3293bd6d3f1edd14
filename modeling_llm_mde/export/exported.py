"""A folder that was exported, used from here: with its own files, as on the machine that it is for."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

SETTINGS_FILE, TOKENIZER_FILE = "export.json", "tokenizer.json"


class ExportedModel:
    """
    An exported folder as a predictor, with the code that lies in it; the packages that it needs must be installed.

    ```python
    >>> from llm_mde.evaluation import evaluate_depth
    >>> from llm_mde.export import ExportedModel
    >>> from llm_mde.processing import RGBDFolder

    >>> evaluate_depth(None, None, RGBDFolder("my_frames", split="val"), predict=ExportedModel("outputs/exported"))
    ```

    Args:
        folder (`str` or `Path`): What [`export_model`] has written. Its code is run: take only folders you trust.
        num_threads (`int`, *optional*, defaults to 0): Of the runtime; 0 leaves it to the runtime.

    Raises:
        ValueError: If it is no such folder.
    """

    def __init__(self, folder: str | Path, num_threads: int = 0):
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise ValueError(f"`folder` is {str(folder)!r}, which has no {SETTINGS_FILE}; give what was exported.")
        self.settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._prepare = runpy.run_path(str(folder / "photographs.py"))["prepare"]
        load_network = runpy.run_path(str(folder / "runtime.py"))["load_network"]
        self.network = load_network(folder / self.settings["model_file"], num_threads)

    def prepare(self, image: Image.Image) -> tuple[dict[str, np.ndarray], str | None, tuple[int, int]]:
        """What the network reads of a photograph, the prompt that it is told, and height and width of the upright
        photograph."""
        return self._prepare(image, self.settings, self._tokenizer)

    def __call__(self, images: list[Image.Image]) -> list[Tensor]:
        """Depth in metres, float32 `(height, width)` at the network's own resolution, for each photograph."""
        return [torch.from_numpy(self.network(self.prepare(image)[0])[0].copy()) for image in images]


__all__ = ["SETTINGS_FILE", "TOKENIZER_FILE", "ExportedModel"]
