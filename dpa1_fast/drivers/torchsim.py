"""A TorchSim model: many systems a call, whose neighbour lists last while systems come and go.

TorchSim hands over a state and nothing else, and between two calls it takes converged systems out of the middle and
puts new ones at the end. Systems are therefore matched in order: the next system of this state is the next one of the
last state that has the same atoms and whose list still serves; whoever stood between them has left. A wrong match costs
a search and never a pair, because every list is checked against the positions before it is used.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ..dynamics.stepper import Moving, Step, stress
from ..engine import Engine
from ..loading import load
from ..scheduler import out_of_memory
from ..structures.structure import Structure, from_ase
from ..structures.verlet import SKIN, Array

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.typing import MemoryScaling
except ImportError as error:
    raise ImportError(f"TorchSim is needed ({error}): pip install 'dpa1-fast[torchsim]'") from error

AUTOBATCHERS_WORDS = "CUDA out of memory, or the CPU's"
"""By the first four of these every version's autobatcher knows that a batch was too large."""


class DPA1Model(ModelInterface):  # type: ignore[misc]
    """DPA-1 for TorchSim: energies (S,) eV, forces (n, 3) eV/Å, stresses (S, 3, 3) eV/Å³ of a batched state.

    The stress of a system without a volume is 0. Which axes are periodic, ``state.pbc`` says: one for all, three, or
    (S, 3). Values are computed in float64 whatever the dtype of the state. Outputs depend on the state alone, never on
    the states before; a call that fails leaves nothing behind. Copies share the engine, deep copies and pickles carry
    their own.

    Attributes:
        compute_forces, compute_stress: whether forces and stresses come out; may be changed at any time.

    Args:
        model: a file or the name of a bundled model, as for ``dpa1_fast.load``, or an ``Engine``.
        device, backend, precision, head, threads: as for ``dpa1_fast.load``, where ``model`` is not an engine already.
        dtype: of what TorchSim computes with.
        compute_forces, compute_stress: see the attributes.
        skin: Å, how much further neighbours are searched than the cut-off.

    Raises:
        ModelFileError, BackendError: as ``dpa1_fast.load``.
        StructureError: from ``forward``, naming the system and what is wrong with it.
        ValueError: from ``forward``, for a state whose parts do not fit together.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device | str = "auto",
        backend: str = "auto",
        precision: str = "float64",
        head: str | None = None,
        threads: int | None = None,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
        skin: float = SKIN,
    ) -> None:
        super().__init__()
        self.engine = model if isinstance(model, Engine) else load(
            model, device=str(device), backend=backend, precision=precision, head=head, threads=threads
        )  # fmt: skip
        self._device, self._dtype = self.engine.device, dtype
        self._compute_forces, self._compute_stress = bool(compute_forces), bool(compute_stress)
        # Edges are what memory goes with. Versions that cannot count them count atoms: a system without a cell has no
        # density.
        self._memory_scales_with = "n_edges" if "n_edges" in get_args(MemoryScaling) else "n_atoms"
        self._skin = skin
        self._prepare()

    def _prepare(self) -> None:
        self._lock, self._moving = threading.Lock(), Moving(self.engine, self._skin)
        self._members: list[Any] = []

    @property
    def compute_forces(self) -> bool:
        """Whether forces come out."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = bool(value)

    @property
    def compute_stress(self) -> bool:
        """Whether stresses come out."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = bool(value)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the neighbour lists, which a copy makes for itself."""
        return {name: x for name, x in self.__dict__.items() if name not in ("_lock", "_moving", "_members")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Evaluates a ``SimState``, or a dictionary of what one holds."""
        read = state.__getitem__ if isinstance(state, dict) else state.__getattribute__
        positions = _numpy(read("positions"))
        # TorchSim keeps lattice vectors in columns.
        cells = np.ascontiguousarray(_numpy(read("cell")).reshape(-1, 3, 3).transpose(0, 2, 1))
        with self._lock:
            try:
                self._follow(read, positions, cells)
                return self._outputs(self._moving.step(positions, cells), cells)
            except BaseException as error:
                self._moving.forget()
                self._members = []
                if out_of_memory(error):
                    raise RuntimeError(f"{AUTOBATCHERS_WORDS}: {error}") from None
                raise

    def _outputs(self, step: Step, cells: Array) -> dict[str, torch.Tensor]:
        for k in sorted(step.errors):
            raise step.errors[k]
        found = {"energy": step.energy}
        if self._compute_forces:
            found["forces"] = step.forces
        if self._compute_stress:
            found["stress"] = stress(step.virial, cells, self._moving.verlet.pbc)
        return {key: torch.from_numpy(x).to(self._device, self._dtype) for key, x in found.items()}

    # --- who is who -------------------------------------------------------------------------------------------------

    def _follow(self, read: Any, positions: Array, cells: Array) -> None:
        """Makes the set of structures that of the state."""
        numbers = _numpy(read("atomic_numbers"), np.int64)
        sizes = _sizes(read("system_idx"), len(numbers), len(cells))
        if positions.shape != (len(numbers), 3):
            raise ValueError(f"the state has {len(numbers)} atomic numbers, and positions of shape {positions.shape}")
        pbc = np.broadcast_to(_numpy(torch.as_tensor(read("pbc")), bool), (len(cells), 3))
        ends = np.cumsum(sizes).tolist()
        systems = [slice(b - n, b) for b, n in zip(ends, sizes, strict=True)]
        members = [(numbers[s].tobytes(), pbc[k].tobytes()) for k, s in enumerate(systems)]
        if members == self._members:
            return
        chosen: list[int | Structure] = []
        after = 0
        for k, here in enumerate(systems):
            found = self._found(members[k], after, positions[here], cells[k])
            if found is None:
                atoms = Atoms(numbers[here], positions[here], cell=cells[k], pbc=pbc[k])
                chosen.append(from_ase(self.engine.config, atoms, f"system {k}"))
            else:
                chosen.append(found)
                after = found + 1
        self._moving.select(chosen)
        # Errors name a system by where it stands now.
        verlet = self._moving.verlet
        verlet.structures = [replace(s, name=f"system {k}") for k, s in enumerate(verlet.structures)]
        self._members = members

    def _found(self, member: Any, after: int, positions: Array, cell: Array) -> int | None:
        for k in range(after, len(self._members)):
            if self._members[k] == member and self._moving.verlet.serves(k, positions, cell):
                return k
        return None


def _sizes(index: torch.Tensor | None, atoms: int, systems: int) -> list[int]:
    """How many atoms each system has.

    Raises:
        ValueError: the atoms of one system do not stand together, or a system has none.
    """
    which = np.zeros(atoms, dtype=np.int64) if index is None else _numpy(index, np.int64)
    steps = np.diff(which, prepend=-1, append=systems)
    if len(which) != atoms or not np.isin(steps[:-1], (0, 1)).all() or steps[-1] != 1 or which[:1].tolist() != [0]:
        raise ValueError(f"system_idx must go from 0 to {systems - 1}, the atoms of each system one after another")
    return [int(n) for n in np.bincount(which)]


def _numpy(x: torch.Tensor, dtype: Any = np.float64) -> NDArray[Any]:
    return x.detach().cpu().numpy().astype(dtype, copy=False)
