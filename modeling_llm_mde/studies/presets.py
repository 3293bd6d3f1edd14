"""
What the presets of `llm_mde.presets` cost in accuracy, beside what they save. Each is composed anew for each seed, of
the same encoders, trained for as many steps and frames with the same recipe, and measured alike. `language_tokens` is
the longest sequence that the language model read while the evaluation frames were measured, and `gflop` the arithmetic
of one forward pass over such a sequence. Both are counted, not timed: `python -m benchmarks` does that.
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from llm_mde.modeling_llm_mde import grid_for_language
from llm_mde.presets import PRESETS, find_preset

from .arguments import MethodStudyArguments
from .resources import count_flops
from .run_log import Row
from .runner import Run, Study, Workbench


@dataclass
class PresetsArguments(MethodStudyArguments):
    """Flags of the study."""

    presets: list[str] = field(default_factory=lambda: list(PRESETS), metadata={"help": "Presets to compare."})

    def __post_init__(self):
        super().__post_init__()
        for name in self.presets:
            find_preset(name)
        if not self.presets or len(set(self.presets)) < len(self.presets):
            raise ValueError(f"`presets` is {self.presets}; give one or more different names.")
        for name in ("model", "preset"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(f"`{name}` is {value!r}, but every preset is composed anew; leave it out.")


def plan(bench: Workbench) -> list[Run]:
    runs = [
        Run(preset, seed, partial(_train_preset, bench, preset, seed))
        for preset in bench.options.presets
        for seed in bench.options.seeds
    ]
    return [*runs, *bench.constant_runs()]


def _train_preset(bench: Workbench, preset: str, seed: int) -> list[Row]:
    model, processor = bench.load(seed, preset)
    model, numbers = bench.train(model, processor, seed)
    longest = _LongestSequence()
    hook = model.language_model.register_forward_pre_hook(longest, with_kwargs=True)
    measured = bench.measure(model, processor)
    hook.remove()
    return [{"variant": preset, "at": None, **measured, **numbers, **longest.cost_of(model, processor)}]


class _LongestSequence:
    """Notes how many tokens a language model is called with at most."""

    length = 0

    def __call__(self, module, arguments, options) -> None:
        self.length = max(self.length, options["inputs_embeds"].shape[1])

    @torch.no_grad()
    def cost_of(self, model, processor) -> Row:
        """The length, and the arithmetic of a forward pass that reads so much."""
        size, device = processor.image_processor.size, model.device
        pixel_values = torch.rand(1, 3, size["height"], size["width"], device=device, dtype=model.dtype)
        rows, columns = grid_for_language(model.vision_layout.grid(pixel_values), model.config)
        input_ids = torch.zeros((1, self.length - rows * columns), dtype=torch.long, device=device)
        model.eval()
        gflop = count_flops(lambda: model(pixel_values=pixel_values, input_ids=input_ids)) / 1e9
        return {"language_tokens": self.length, "gflop": gflop}


STUDY = Study(
    "presets",
    __doc__,
    PresetsArguments,
    plan,
    columns=("train_loss", "trained_parameters", "language_tokens", "gflop", "seconds"),
)
