"""
The paper claims that resource use is kept low, and gives no time, memory or arithmetic. Here LLM-MDE, each of its
encoders alone and a timm CNN with LLM-MDE's depth head see the same random pixels at several sizes. Weights are random
too, as nothing of this depends on them. Latency is that of one forward pass without gradients, after some to warm up;
the contenders take turns, so that a machine that slows down does so for all. Arithmetic is what PyTorch counts in one
such pass (on a CPU the text prototypes are then remembered, on a GPU computed each time). Peak memory comes from a
fresh process for each: all that is resident, and how much of it came after the libraries (on a GPU tensors alone).
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from itertools import cycle, islice
from statistics import median, quantiles

import torch
from torch import nn

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation
from llm_mde.modeling_llm_mde import VisionLayout, _encoder_from_config, grid_for_language
from llm_mde.training.model_arguments import PAPER_ENCODERS

from .arguments import StudyArguments
from .cnn import CNNForDepthEstimation
from .memory import forget_peak, in_fresh_process, peak_memory_mb, resident_mb
from .run_log import Row
from .runner import Run, Study, Workbench

CNN, WHOLE, VISION, LANGUAGE = "CNN, same head", "LLM-MDE", "vision encoder alone", "language model alone"


@dataclass
class ResourcesArguments(StudyArguments):
    """Flags of the study; without any model among them: the paper's sizes, without a download."""

    sizes: list[str] = field(
        default_factory=lambda: ["224x224", "448x448"], metadata={"help": "HEIGHTxWIDTH, multiples of the patch."}
    )
    rounds: int = field(default=20, metadata={"help": "How often each contender is timed."})
    batch_size: int = field(default=1, metadata={"help": "Images at once."})
    prompt_length: int = field(default=70, metadata={"help": "Tokens of the prompt, as far as the model takes them."})
    cnn: str = field(default="resnet50", metadata={"help": "CNN of timm to which all ratios are."})
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})

    def __post_init__(self):
        super().__post_init__()
        strangers = [size for size in self.sizes if not re.fullmatch(r"\d+x\d+", size)]
        if strangers or not self.sizes:
            raise ValueError(f"`sizes` is {self.sizes}; write HEIGHTxWIDTH in pixels, such as 224x224.")
        for name, smallest in (("rounds", 2), ("batch_size", 1), ("prompt_length", 1)):
            if getattr(self, name) < smallest:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least {smallest}.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"`dtype` is {self.dtype!r}; choose float32, bfloat16 or float16.")


@dataclass(frozen=True)
class Contender:
    """One network at one size, which can be built in any process."""

    name: str
    config: LLMMDEConfig
    height: int
    width: int
    options: ResourcesArguments
    device: torch.device

    def build(self) -> tuple[nn.Module, Callable[[], object]]:
        """The network, and its forward pass."""
        torch.manual_seed(0)
        config, options = self.config, self.options
        if self.name == CNN:
            module = CNNForDepthEstimation(config, options.cnn)
        elif self.name == WHOLE:
            module = LLMMDEForDepthEstimation(config)
        else:
            module = _encoder_from_config(config.vision_config if self.name == VISION else config.text_config)
        module = module.to(self.device, getattr(torch, options.dtype)).eval()
        inputs = {name: value.to(self.device) for name, value in self._inputs().items()}
        if self.name == VISION and "interpolate_pos_encoding" in signature(type(module).forward).parameters:
            own_size = config.vision_config.image_size
            own_size = (own_size, own_size) if isinstance(own_size, int) else tuple(own_size)
            inputs["interpolate_pos_encoding"] = own_size != (self.height, self.width)

        @torch.no_grad()
        def forward() -> object:
            output = module(**inputs)
            if self.device.type != "cpu":
                torch.accelerator.synchronize()
            return output

        return module, forward

    def _inputs(self) -> dict[str, torch.Tensor]:
        config, options = self.config, self.options
        shape = (options.batch_size, 3, self.height, self.width)
        pixel_values = torch.rand(shape, dtype=getattr(torch, options.dtype))
        if self.name in (CNN, VISION):
            return {"pixel_values": pixel_values}
        words = list(islice(cycle(config.default_prompt_ids), min(options.prompt_length, config.max_prompt_length)))
        if self.name == WHOLE:
            return {"pixel_values": pixel_values, "input_ids": torch.tensor([words] * options.batch_size)}
        with torch.device("meta"):
            layout = VisionLayout.of(_encoder_from_config(config.vision_config))
        rows, columns = grid_for_language(layout.grid(pixel_values), config)
        length = len(words) + rows * columns
        embeddings = torch.rand(options.batch_size, length, config.word_embedding_size, dtype=pixel_values.dtype)
        return {"inputs_embeds": embeddings, "attention_mask": torch.ones(embeddings.shape[:2], dtype=torch.long)}


def plan(bench: Workbench) -> list[Run]:
    return [Run(size, None, partial(_measure_size, bench, size)) for size in bench.options.sizes]


def _measure_size(bench: Workbench, size: str) -> list[Row]:
    options = bench.options
    composed = options.model is None and not options.from_scratch
    is_paper = composed and (options.vision_model, options.language_model) == PAPER_ENCODERS
    config = LLMMDEConfig() if is_paper else bench.load()[0].config
    height, width = map(int, size.split("x"))
    contenders = [
        Contender(name, config, height, width, options, bench.device) for name in (CNN, WHOLE, VISION, LANGUAGE)
    ]
    rows: dict[str, Row] = {}
    for contender in contenders:
        rows[contender.name] = in_fresh_process(partial(_measure_memory, contender))

    built = {contender.name: contender.build() for contender in contenders}
    for name, (module, forward) in built.items():
        forward()
        rows[name]["gflop"] = count_flops(forward) / 1e9
        rows[name]["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    times = time_in_turns({name: forward for name, (_, forward) in built.items()}, options.rounds)
    for name, row in rows.items():
        quarters = quantiles(times[name], n=4)
        row["latency_ms"] = 1e3 * median(times[name])
        row["latency_ms_iqr"] = 1e3 * (quarters[2] - quarters[0])
        row["latency_ratio"] = median(mine / cnn for mine, cnn in zip(times[name], times[CNN], strict=True))
        for number in ("gflop", "parameters", "memory_above_libraries_mb"):
            row[f"{number.partition('_')[0]}_ratio"] = row[number] / rows[CNN][number]
    named = {CNN: f"CNN ({options.cnn}), same head"}
    return [{"variant": named.get(name, name), "at": size, **row} for name, row in rows.items()]


def count_flops(forward: Callable[[], object]) -> int:
    """Floating point operations of matrix products, convolutions and attention; a multiply-add counts as two."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Not every version knows the arithmetic of every fused attention; written out, all count it.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward()
    return counter.get_total_flops()


def time_in_turns(
    forwards: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call in each round; in every round each is called once, and once before the first to warm up."""
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for forward in forwards.values() if warm_up else ():
        forward()
    for _ in range(rounds):
        for name, forward in forwards.items():
            started = time.perf_counter()
            forward()
            times[name].append(time.perf_counter() - started)
    return times


def _measure_memory(contender: Contender) -> Row:
    import timm  # noqa: F401 (a library: what it takes is not the network's)

    libraries = resident_mb(contender.device)
    _, forward = contender.build()
    forget_peak(contender.device)  # drawing random weights takes more than loading them
    forward()
    peak = peak_memory_mb(contender.device)
    return {"peak_memory_mb": peak, "memory_above_libraries_mb": peak - libraries}


STUDY = Study(
    "resources",
    __doc__,
    ResourcesArguments,
    plan,
    at="size",
    columns=(
        *("latency_ms", "latency_ms_iqr", "latency_ratio", "gflop", "gflop_ratio", "parameters"),
        *("peak_memory_mb", "memory_above_libraries_mb", "memory_ratio"),
    ),
    plot="latency_ms",
    note="Latency: median over rounds in which the contenders take turns, and the distance of its quartiles. Ratios: "
    "to the CNN at the same size, of latency round by round.",
    needs_data=False,
)
