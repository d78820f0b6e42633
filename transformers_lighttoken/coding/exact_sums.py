"""Exact sums over processes of tensors whose magnitude is not known before, such as gradients. Beyond the paper."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .share import RowShare

_GRID_BITS = 36


class ExactSums:
    """Sums lists of tensors over pieces and processes, again and again; neither grouping nor order matters.

    As in `reduction`, addends are rounded to a fixed-point grid. That of each tensor lies 36 bits below the largest
    value it has had so far on any process, and sums are exact up to 2**17 times that value. An exchange a call; the
    first call has another.

    Args:
        share: whose processes exchange them.
    """

    def __init__(self, share: RowShare) -> None:
        self._share = share
        self._peaks: list[float] = []

    def __call__(self, parts: Sequence[Sequence[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        """Adds up.

        Args:
            parts: this process's addends, each a list of float32 tensors shaped as `like`; perhaps none.
            like: tensors with the shapes and the device of the sums.

        Returns:
            The sums over the parts of all processes, float64.
        """
        if not self._peaks:
            own = [torch.stack([part[number].abs().max() for part in parts]).max() if parts else torch.zeros(())
                   for number in range(len(like))]  # fmt: skip
            gathered = self._share.gather(torch.stack([peak.double().cpu() for peak in own]))
            self._peaks = torch.stack(gathered).amax(dim=0).tolist()
        totals = []
        for number, tensor in enumerate(like):
            grid = 2.0 ** (_GRID_BITS - math.frexp(self._peaks[number])[1])
            total = torch.zeros(tensor.shape, dtype=torch.float64, device=tensor.device)
            for part in parts:
                total += (part[number].double() * grid).round_()
            totals.append(total.div_(grid).flatten())
        summed = self._share.reduce(torch.cat(totals)).split([tensor.numel() for tensor in like])
        peaks = torch.stack([total.abs().max() for total in summed]).tolist()
        self._peaks = [max(pair) for pair in zip(self._peaks, peaks, strict=True)]
        return [total.view_as(tensor) for total, tensor in zip(summed, like, strict=True)]
