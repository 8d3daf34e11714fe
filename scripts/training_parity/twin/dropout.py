"""Dropout whose mask was drawn elsewhere."""

import torch
from torch import nn

_STEP = 2.0**-16


class GivenDropout(nn.Module):
    """y = x mask / (1 - p), with the mask that was put into `mask` before the pass.

    Args:
      rate: p.
      rounded: whether p is rounded to a multiple of 2^-16.
    """

    def __init__(self, rate: float, *, rounded: bool = False):
        super().__init__()
        self.keep = 1 - (round(rate / _STEP) * _STEP if rounded else rate)
        self.mask: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.mask is not None, "a mask for every pass"
        return x * self.mask.to(x.dtype) / self.keep


class GivenTaskDropout(GivenDropout):
    """The same with a mask per task, (T, ...), or one for all tasks."""

    def of_task(self, task: int, shape: torch.Size, x: torch.Tensor) -> torch.Tensor:
        assert self.mask is not None, "a mask for every pass"
        mask = self.mask if self.mask.shape == shape else self.mask[task]
        return x * mask.to(x.dtype) / self.keep
