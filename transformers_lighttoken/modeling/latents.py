"""TableLatents: the float32 parameters behind a table's stored rounding, by which it trains."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..coding.decode import StoredTensors
from ..coding.latents import roundings
from ..coding.plan import CodingPlan

UNIT = "_unit"


class _OptimizerSteps:
    """Counts the steps of all optimizers: fused ones change parameters without a new version."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.taken += 1


_steps = _OptimizerSteps()
register_optimizer_step_post_hook(_steps)


class TableLatents(nn.Module):
    """Float32 latents of decoders, low-rank factors and row scales, and the units that they are relative to.

    They stay float32 whatever the model is cast to.

    Args:
        plan: what the table stores.
        stored: its tensors; the latents round to these very bytes.
        parts: of the table that get latents.
    """

    def __init__(self, plan: CodingPlan, stored: StoredTensors, parts: Sequence[str]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.roundings = roundings(plan, parts)
        for name, rounding in self.roundings.items():
            values, unit = rounding.latents(stored)
            self.register_parameter(name, nn.Parameter(values))
            self.register_buffer(name + UNIT, unit)
        self._note_parameters()

    @property
    def trains(self) -> bool:
        """Whether any of them gets a gradient."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def values(self, stored: StoredTensors) -> dict[str, Tensor]:
        """The float32 values that the stored rounding of the latents stands for, with gradients, by stored name."""
        return {
            name: rounding.values(self.get_parameter(name), self.get_buffer(name + UNIT), stored)
            for name, rounding in self.roundings.items()
        }

    def write_rounding(self, stored: StoredTensors, force: bool = False) -> None:
        """Brings stored tensors up to date, in place, where latents have changed since.

        A change is seen by the version that PyTorch counts for each tensor, and after each step of an optimizer.
        Parameters that something else has put in the place of ours (FSDP) count as changed always.

        Args:
            stored: the table's tensors.
            force: rounds again whatever the versions are.
        """
        state = self._state()
        if state is not None and state == self._written and not force:
            return
        if not any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            for name, tensor in rounded_tensors(self.roundings, self._tensors(), stored).items():
                stored[name].copy_(tensor)
            self._written = state

    def renewed(self, plan: CodingPlan, stored: StoredTensors) -> "TableLatents":
        """Latents of another table, of the same parts, that train where these do."""
        renewed = TableLatents(plan, stored, self.parts)
        for name, parameter in renewed.named_parameters():
            old = self._parameters.get(name)
            parameter.requires_grad_(self.trains if old is None else old.requires_grad)
        return renewed

    def forget_versions(self) -> None:
        """Lets the next `write_rounding` round again."""
        self._written = None

    def _tensors(self) -> dict[str, Tensor]:
        return {**self._parameters, **self._buffers}  # pyright: ignore[reportReturnType]

    def _note_parameters(self) -> None:
        self._own = {name: weakref.ref(parameter) for name, parameter in self.named_parameters()}
        self._written: tuple[int, ...] | None = self._state()

    def _state(self) -> tuple[int, ...] | None:
        """Steps of optimizers, place and version of each latent; None where they cannot be told."""
        own = {name: reference() for name, reference in self._own.items()}
        known = all(own.get(name) is parameter for name, parameter in self._parameters.items())
        if not known or any(parameter.is_inference() for parameter in self.parameters()):
            return None
        versions = ((parameter.data_ptr(), parameter._version) for parameter in self.parameters())
        return (_steps.taken, *chain.from_iterable(versions))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TableLatents":
        def keeping_float32(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(keeping_float32, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_own", "_written")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._note_parameters()
        self.forget_versions()


def complete_latents(latents: TableLatents, state: dict[str, Any], prefix: str, stored: StoredTensors) -> None:
    """Puts latents that a state dict lacks into it: those at hand if they round to what was loaded, else new ones.

    Args:
        latents: to be loaded after this.
        state: of the table; changed in place. Latents that there is no use for are taken out.
        prefix: of the table's names in the state dict.
        stored: the table's tensors, loaded from the state dict already.
    """
    latents.forget_versions()
    mine = f"{prefix}latents."
    for key in [key for key in state if key.startswith(mine) and key.removeprefix(mine) not in latents._tensors()]:
        del state[key]
    for name, rounding in latents.roundings.items():
        values, unit = latents.get_parameter(name).detach(), latents.get_buffer(name + UNIT)
        if mine + name in state or prefix + name not in state or isinstance(values, DTensor):
            continue
        rounded = rounding.round(values, unit, stored)
        if values.is_meta or any(not torch.equal(tensor, stored[key]) for key, tensor in rounded.items()):
            values, unit = rounding.latents(stored)
        state[mine + name], state[mine + name + UNIT] = values, unit


def rounded_tensors(
    rules: Mapping[str, Any], latents: Mapping[str, Tensor], stored: StoredTensors, prefix: str = ""
) -> dict[str, Tensor]:
    """The stored tensors that latents round to.

    Args:
        rules: how each is rounded, by stored name.
        latents: the latents and their units.
        stored: the table's tensors, for what does not train.
        prefix: of the names of the latents.
    """
    rounded: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, rule in rules.items():
            rounded |= rule.round(latents[prefix + name], latents[prefix + name + UNIT], stored)
    return rounded
