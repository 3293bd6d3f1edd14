"""One step of training: forward, loss, backward, clipped gradients, AdamW."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from llm_mde import silog_loss
from llm_mde.modeling_llm_mde import _rest
from llm_mde.training import add_lora, lora_config, parameter_groups, prepare_for_training

from .authors import Authors
from .contenders import Contender, Floor, Ours, Size

_LEARNING_RATE = 5e-4


@dataclass(frozen=True)
class Training:
    """A network with its optimiser. `loss_of` maps inputs and labels (metres) to the loss; `max_norm` is `None` where
    gradients are not clipped."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    loss_of: Callable[[dict[str, Tensor], Tensor], Tensor]
    max_norm: float | None

    def step(self, inputs: dict[str, Tensor], labels: Tensor) -> None:
        self.optimiser.zero_grad()
        self.loss_of(inputs, labels).backward()
        if self.max_norm is not None:
            trained = [weight for group in self.optimiser.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.max_norm)
        self.optimiser.step()


@singledispatch
def prepare_training(contender: Contender) -> Training:
    """The contender, ready for steps.

    Raises:
        ValueError: If it is none of those that are trained here.
    """
    raise ValueError(f"`contender` is {contender.name!r}; train LLM-MDE, its floor or the authors' release.")


@prepare_training.register
def _(contender: Ours) -> Training:
    model = contender.build()
    model.config.encoder_dropout = contender.encoder_dropout
    model = prepare_for_training(model, "lora", lora_config(model, contender.lora_preset)).train()

    def loss_of(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return model(**inputs, labels=labels).loss

    return Training(model, torch.optim.AdamW(parameter_groups(model, _LEARNING_RATE)), loss_of, max_norm=1.0)


@prepare_training.register
def _(contender: Floor) -> Training:
    """The same updates in the same layers, dropout as in the model, and a loss that costs nothing."""
    encoders = contender.build()
    config = lora_config(encoders)
    config.task_type, config.modules_to_save = None, None
    model = add_lora(encoders, config).train()
    if not contender.model.encoder_dropout:
        _rest(encoders)

    def loss_of(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return sum(outputs.last_hidden_state.square().mean() for outputs in model(**inputs))

    return Training(model, torch.optim.AdamW(parameter_groups(model, _LEARNING_RATE)), loss_of, max_norm=1.0)


@prepare_training.register
def _(contender: Authors) -> Training:
    """As its training script does it, BERT's dropout included, without the search for anomalies that it turns on and
    without its printing and drawing of every step: no clipping, one group."""
    module = contender.build().train()

    def loss_of(inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        depth = module(**inputs).squeeze(1)
        return 10 * silog_loss(depth, labels, variance_focus=0.85, reduction="batch")

    return Training(module, torch.optim.AdamW(module.parameters(), lr=1e-4), loss_of, max_norm=None)


def make_labels(size: Size, batch_size: int) -> Tensor:
    """Depth in metres as labels, `(batch_size, height, width)`."""
    return 0.5 + 9 * torch.rand(batch_size, *size)


__all__ = ["Training", "make_labels", "prepare_training"]
