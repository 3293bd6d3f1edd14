"""Weights that are no numbers, found before they are written over good ones."""

from collections.abc import Mapping

import torch
from torch import Tensor


def refuse_undefined(weights: Mapping[str, Tensor]) -> None:
    """
    Lets weights pass if every one is a finite number.

    Args:
        weights (`Mapping[str, torch.Tensor]`): By name, as in a state dict. Integers, of quantised weights, and what
            is on the meta device have no such values; of sharded weights the local piece is looked at.

    Raises:
        ValueError: If one holds NaN or infinity; the message names the first and counts.
    """
    for name, weight in weights.items():
        weight = weight.to_local() if hasattr(weight, "to_local") else weight
        if not weight.is_floating_point() or weight.is_meta or weight.numel() == 0:
            continue
        weight = weight.detach()
        weight = weight.float() if weight.element_size() == 1 else weight
        # Both are NaN where any value is. No copy as large as the weight is made.
        if not torch.stack(torch.aminmax(weight)).isfinite().all():
            num_undefined = int((~weight.isfinite()).sum())
            raise ValueError(
                f"`{name}` has {num_undefined} of {weight.numel()} values that are not finite (NaN or infinity), so "
                "nothing is saved: such weights predict nothing. Go back to the last checkpoint, and train on with a "
                "smaller learning rate or in a wider type (bfloat16 or float32 instead of float16)."
            )


__all__ = ["refuse_undefined"]
