"""The moving average of a model's parameters."""

from __future__ import annotations

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..model import DPA1


class Average:
    """A second model whose parameters follow the first's: θ̄ ← decay·θ̄ + (1 − decay)·θ at each step."""

    def __init__(self, model: DPA1, decay: float) -> None:
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    @property
    def model(self) -> DPA1:
        """The averaged model."""
        inner = self.averaged.module
        assert isinstance(inner, DPA1)
        return inner

    def update(self, model: DPA1) -> None:
        """Takes a step's parameters in."""
        self.averaged.update_parameters(model)
