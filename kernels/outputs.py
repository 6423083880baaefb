"""What every backend returns of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Of a batch of S structures with n atoms and e edges, all float64, on the backend's device.

    Attributes:
        energies: (n,) eV, one an atom. gradient: (e, 3) eV/Å, dE/dd of each edge d = r_j − r_i.
        forces: (n, 3) eV/Å. virials: (S, 3, 3) eV, −dE/dε.
        hidden: (n, H) the energy net's last hidden layer, where it was asked for; zero for atoms without energies.
    """

    energies: Tensor
    gradient: Tensor
    forces: Tensor
    virials: Tensor
    hidden: Tensor | None = None

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """Those that are there, in order."""
        return tuple(x for x in self if x is not None)

    def cpu(self, gradient: bool = True) -> Outputs:
        """The same on the CPU; ``gradient=False`` leaves out the largest part, of which nothing comes then."""
        kept = self if gradient else self._replace(gradient=self.gradient[:0])
        hidden = None if kept.hidden is None else kept.hidden.cpu()
        return Outputs(kept.energies.cpu(), kept.gradient.cpu(), kept.forces.cpu(), kept.virials.cpu(), hidden)
