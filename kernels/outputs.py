"""What every backend returns of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Of a batch of S structures with n atoms and e edges, all float64, on the backend's device.

    Attributes:
        energies: (n,) eV, one an atom. gradient: (e, 3) eV/Å, dE/dd of each edge d = r_j − r_i.
        forces: (n, 3) eV/Å. virials: (S, 3, 3) eV, −dE/dε.
    """

    energies: Tensor
    gradient: Tensor
    forces: Tensor
    virials: Tensor

    def cpu(self, gradient: bool = True) -> Outputs:
        """The same on the CPU; ``gradient=False`` leaves out the largest part, of which nothing comes then."""
        wanted = self if gradient else self._replace(gradient=self.gradient[:0])
        return wanted if self.energies.device.type == "cpu" else Outputs(*(x.cpu() for x in wanted))


class OutputsWithHidden(Outputs):
    """The same four, and with them what uncertainty is made of.

    Attributes:
        hidden: (n, H) float64, the energy net's last hidden layer; zero for atoms without energies.
    """

    hidden: Tensor

    @classmethod
    def of(cls, outputs: Outputs, hidden: Tensor) -> OutputsWithHidden:
        """Outputs and their hidden layers."""
        out = cls(*outputs)
        out.hidden = hidden
        return out

    def cpu(self, gradient: bool = True) -> OutputsWithHidden:
        """See ``Outputs.cpu``."""
        return self.of(super().cpu(gradient), self.hidden.cpu())
