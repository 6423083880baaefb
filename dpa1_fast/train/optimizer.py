"""Optimizers of torch.optim."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .options import OptimizerOptions, TrainingError


class Optimizers:
    """One or two optimizers that step together: Muon for the matrices between hidden layers and AdamW for the rest.

    Args:
        model: parameters that need a gradient are optimised.
        factors: on the learning rate, by the beginning of a parameter's name; the longest that fits counts.

    Raises:
        TrainingError: this torch has no such optimizer; a factor is of no parameter.
    """

    def __init__(self, model: nn.Module, options: OptimizerOptions, factors: dict[str, float] | None = None) -> None:
        names = [name for name, _ in model.named_parameters()]
        for begin in factors or {}:
            if not any(name.startswith(begin) for name in names) and not begin.startswith("attention"):
                known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
                raise TrainingError(f"--lr-factor: no parameter's name begins with {begin!r}; they begin with {known}")
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        betas, decay = (options.beta1, options.beta2), options.weight_decay
        self.parameters = [p for _, p in named]
        muon = {name for name, p in named if options.kind == "Muon" and _hidden(name, p)}
        rest = _groups([x for x in named if x[0] not in muon], factors or {})
        self.all: list[torch.optim.Optimizer] = []
        if rest:
            # foreach: one pass over all parameters, which are many and small; the same arithmetic.
            kind = torch.optim.Adam if options.kind == "Adam" else torch.optim.AdamW
            self.all.append(kind(rest, betas=betas, weight_decay=decay, foreach=True))
        if muon:
            if not hasattr(torch.optim, "Muon"):
                raise TrainingError(f"optimizer Muon needs torch 2.9 or newer, here is {torch.__version__}; use AdamW")
            groups = _groups([x for x in named if x[0] in muon], factors or {})
            self.all.append(
                torch.optim.Muon(groups, momentum=options.momentum, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )

    def set_learning_rate(self, value: float) -> None:
        """The learning rate from now on; each group has its factor on it."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = value * group["factor"]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Moves the parameters."""
        for optimizer in self.all:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes on from a checkpoint."""
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def _hidden(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon is meant for a parameter: a matrix whose rows and columns are both hidden features."""
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not name.startswith("type_embedding")


def _groups(named: list[tuple[str, nn.Parameter]], factors: dict[str, float]) -> list[dict[str, Any]]:
    by_factor: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        fitting = [begin for begin in factors if name.startswith(begin)]
        by_factor.setdefault(factors[max(fitting, key=len)] if fitting else 1.0, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in by_factor.items()]
