"""From structures to energies, forces and virials, in constant memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from . import copies, devices
from .dispersion import Dispersion
from .errors import BackendError, DPA1Warning, StructureError, UncertaintyError
from .features import Features, features, of_batch, streamed
from .kernels import dispatch
from .kernels.cpu.evaluator import CpuEvaluator
from .kernels.outputs import Outputs, OutputsWithHidden
from .kernels.precision import PRECISIONS
from .model import DPA1
from .result import VOIGT as VOIGT
from .result import Result as Result
from .result import results_of
from .scheduler import Evaluator, Part, Scheduler
from .structures.batch import Batch, Neighborhood, collate, neighborhood
from .structures.on_device.search import DeviceSearch
from .structures.structure import Structure, from_ase
from .tiled import TiledEvaluator
from .uncertainty import Uncertainty

NEIGHBORS = ("auto", "device", "host")
"""Where neighbour lists can be made."""


class Engine:
    """Evaluates a DPA-1 model.

    The engine takes a snapshot of the model's weights: train on, make a new engine to see the change. Copies and
    pickles carry the weights, device, backend, precision and threads.

    Args:
        model: a ``DPA1`` in memory.
        device: "auto" (a GPU if torch sees one), or any torch device.
        backend: "auto" ("triton" on a GPU, "cpu" on a CPU), "cpu" (compiled, hand-derived gradients), "triton" (fused
            kernels; on a CPU in Triton's interpreter, which is for tests) or "reference" (autograd).
        precision: "float64", "float32" or "bfloat16" (products of bfloat16 operands, summed in float32), with triton
            also "tf32" and "float16": the arithmetic of the networks. The environment matrix and all sums of energies
            and forces are float64 in all.
        threads: worker threads of the CPU engine; by default as many as torch uses.
        fixed_shape: for molecular dynamics on a GPU with the triton backend: calls with the same atoms one after
            another replay a CUDA graph, see ``kernels/triton/cuda_graph.py``. Results are the
            same; other atoms cost a new capture.
        neighbors: where neighbour lists are made: "device", "host", or "auto": on a GPU where the model runs on one and
            there are more than a few atoms, else on the host. They are the same lists.
        dispersion: added to the model, such as "d3bj:pbe" (``dispersion.py``); in what is evaluated of structures, and
            not in ``run`` and ``evaluate_batch``.

    Raises:
        BackendError: device, backend, precision, fixed_shape, neighbors or dispersion not available.
    """

    def __init__(
        self,
        model: DPA1,
        *,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "float64",
        threads: int | None = None,
        fixed_shape: bool = False,
        neighbors: str = "auto",
        dispersion: str | None = None,
    ) -> None:
        self._set_up(model, device, backend, precision, threads, fixed_shape, neighbors, dispersion)
        if model.order_dependent:
            warnings.warn(
                "this model has davg ≠ 0 (set_davg_zero = false): as in DeePMD-kit, its energies depend on which atom "
                "of a structure comes first",
                DPA1Warning,
                stacklevel=3,
            )

    def _set_up(
        self, model: DPA1, device: str, backend: str, precision: str, threads: int | None, fixed_shape: bool,
        neighbors: str, dispersion: str | None,
    ) -> None:  # fmt: skip
        if neighbors not in NEIGHBORS:
            raise BackendError(f"neighbors={neighbors!r} is not available; available: {', '.join(NEIGHBORS)}")
        self.dispersion = None if dispersion is None else Dispersion(dispersion, model.config.type_map)
        self.device = devices.resolve(device)
        try:
            self.backend = dispatch.choose(backend, self.device.type)
            dispatch.check_precision(precision, self.backend)
            dispatch.check_fixed_shape(fixed_shape, self.backend, self.device.type)
        except ValueError as error:
            raise BackendError(str(error)) from None
        if backend == "auto" and self.backend == "reference" and self.device.type == "cpu":
            warnings.warn(f"{dispatch.NOT_COMPILED}; the slow reference serves until then", DPA1Warning, stacklevel=3)
        self.precision, self.fixed_shape, self.neighbors = precision, fixed_shape, neighbors
        self.config = model.config
        self.threads = (threads or torch.get_num_threads()) if self.backend == "cpu" else 1
        self._model = copy.deepcopy(model).requires_grad_(False).eval()
        make = {"cpu": self._cpu, "triton": self._triton, "reference": self._reference}[self.backend]
        try:
            self.evaluator = make(model)
        except ValueError as error:  # the kernels know no errors of ours
            raise BackendError(str(error)) from None
        here = neighbors == "device" or (neighbors == "auto" and self.device.type == "cuda")
        self.search = DeviceSearch(model.config, self.device, always=neighbors == "device") if here else None
        self.scheduler = Scheduler(
            model.config, self.evaluator, self.device, search=self.search, run_hidden=self._run_hidden
        )
        self._warned_over_sel = False

    # --- copies: another engine of the same model, with the same options ------------------------------------------

    def __copy__(self) -> Engine:
        new = object.__new__(type(self))
        new._set_up(self._model, *self._options())
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (*copies.packed(self._model), *self._options())

    def _options(self) -> tuple[str, str, str, int, bool, str, str | None]:
        added = None if self.dispersion is None else self.dispersion.name
        return str(self.device), self.backend, self.precision, self.threads, self.fixed_shape, self.neighbors, added

    # --- public ---------------------------------------------------------------------------------------------------

    @overload
    def evaluate(
        self,
        structures: Sequence[Any],
        *,
        fparam: ArrayLike | None = ...,
        aparam: Sequence[ArrayLike] | None = ...,
        atomic_virials: bool = ...,
        uncertainty: bool = ...,
        closest: bool = ...,
        on_error: Literal["raise"] = ...,
    ) -> list[Result]: ...
    @overload
    def evaluate(
        self,
        structures: Sequence[Any],
        *,
        fparam: ArrayLike | None = ...,
        aparam: Sequence[ArrayLike] | None = ...,
        atomic_virials: bool = ...,
        uncertainty: bool = ...,
        closest: bool = ...,
        on_error: Literal["return"],
    ) -> list[Result | StructureError]: ...
    def evaluate(
        self,
        structures: Sequence[Any],
        *,
        fparam: ArrayLike | None = None,
        aparam: Sequence[ArrayLike] | None = None,
        atomic_virials: bool = False,
        uncertainty: bool = False,
        closest: bool = False,
        on_error: str = "raise",
    ) -> list[Result] | list[Result | StructureError]:
        """Energies, forces, virials of structures of any sizes, elements and periodicity; results in their order.

        Args:
            structures: ``ase.Atoms`` (or ``Structure``, already checked).
            fparam: frame parameters, (numb_fparam,) for all or (S, numb_fparam); else ``atoms.info["fparam"]``.
            aparam: atomic parameters, one array (n, numb_aparam) a structure; else ``atoms.arrays["aparam"]``.
            atomic_virials: also compute those. uncertainty: also how far to trust each, see ``uncertainty.py``.
            closest: also how close atoms come to each other.
            on_error: "raise", or "return" to put the error of a structure in its place and do all others.

        Raises:
            StructureError: naming the structure and the reason, with ``on_error="raise"``.
            UncertaintyError: of a model that was not calibrated.
        """
        if not isinstance(structures, Sequence) or hasattr(structures, "get_chemical_symbols"):
            raise TypeError("evaluate takes a list of structures; for one structure give [atoms]")
        parts = self._prepared(structures, len(structures), fparam, aparam)
        results = []
        for result in self._stream(parts, atomic_virials, uncertainty, closest):
            if on_error == "raise" and isinstance(result, StructureError):
                raise result
            results.append(result)
        return results

    def stream(
        self, structures: Iterable[Any], uncertainty: bool = False, closest: bool = False
    ) -> Iterator[Result | StructureError]:
        """The results of any number of structures, as they come and in their order, in constant memory.

        ``structures`` is read and prepared on a thread of its own, a few packs ahead of what is evaluated.

        Args:
            structures: ``ase.Atoms`` or ``Structure``; a ``StructureError`` among them is passed on in its place.
            uncertainty, closest: see ``evaluate``.

        Raises:
            UncertaintyError: of a model that was not calibrated.
        """
        return self._stream(self._prepared(structures, None, None, None), False, uncertainty, closest)

    def batch(self, structures: Sequence[Any]) -> Batch:
        """Structures checked, with their neighbours, as one batch on the CPU: what ``run`` and ``evaluate_batch`` take.

        Raises:
            StructureError: naming the structure and the reason.
        """
        checked = [self._structure(k, item, None, None, None) for k, item in enumerate(structures)]
        return collate(self.config, [neighborhood(self.config, s) for s in checked])

    def run(self, batch: Batch) -> Outputs:
        """One call of the backend on a whole batch; results stay on the engine's device. Memory is not looked after."""
        return self.evaluator(batch.to(self.device))

    def evaluate_batch(self, batch: Batch, gradient: bool = True, hidden: bool = False) -> Outputs:
        """A batch that is ready, such as ``Verlet.batch`` makes at every step: what ``Outputs`` says, on the CPU.

        Nothing is checked; atoms far too close together give numbers that are not finite.

        Args:
            batch: on any device. gradient: False leaves dE/dd out, which is larger than all else.
            hidden: the energy net's last hidden layer too.
        """
        self._say_over_sel(batch)
        return self.scheduler.outputs(batch, gradient, hidden)

    @property
    def uncertainty(self) -> Uncertainty:
        """What the model knows of its training set.

        Raises:
            UncertaintyError: nothing.
        """
        if self._model.uncertainty is None:
            raise UncertaintyError(
                "this model was not calibrated, so nothing is known of its uncertainty: dpa1-fast calibrate does that"
            )
        return self._model.uncertainty

    def descriptors(self, structures: Sequence[Any]) -> list[NDArray[np.float64]]:
        """The descriptor of every atom, by the reference formulas in float64: what ``DeepPot.eval_descriptor`` gives.

        Returns:
            One array (n, D) a structure, zero for virtual atoms; D as ``DPA1Config.dim_descrpt``.

        Raises:
            StructureError: naming the structure and the reason.
        """
        return [x.descriptor for x in self.features(structures)]

    def features(self, structures: Sequence[Any]) -> list[Features]:
        """Descriptor and the energy net's last hidden layer of every atom, by the reference formulas in float64.

        Raises:
            StructureError: naming the structure and the reason.
        """
        model = self._model.set_dtype(torch.float64)
        checked = [self._structure(k, x, None, None, None) for k, x in enumerate(structures)]
        return [features(model, neighborhood(self.config, s)) for s in checked]

    def stream_features(self, structures: Iterable[Any]) -> Iterator[Features | StructureError]:
        """As ``features``, of any number of structures in constant memory; errors stand in their places."""

        def on_host() -> Iterator[Neighborhood | StructureError]:
            for part in self._prepared(structures, None, None, None):
                try:
                    yield neighborhood(self.config, part) if isinstance(part, Structure) else part
                except StructureError as error:
                    yield error

        return streamed(self._model.set_dtype(torch.float64), on_host())

    # --- backends -------------------------------------------------------------------------------------------------

    def _cpu(self, model: DPA1) -> Evaluator:
        return CpuEvaluator(model.weights(), PRECISIONS[self.precision].operand, self.threads)

    def _triton(self, model: DPA1) -> Evaluator:
        evaluator: Evaluator = dispatch.triton_evaluator(
            model.weights(), self.precision, self.device, fixed_shape=self.fixed_shape
        )
        return evaluator

    def _reference(self, model: DPA1) -> Evaluator:
        own = (
            copy.deepcopy(model).requires_grad_(False).eval().to(self.device).set_dtype(PRECISIONS[self.precision].work)
        )
        return TiledEvaluator(dispatch.ReferenceEvaluator(own), own.cost_per_neighbor, 2 * own.config.rcut)

    def _run_hidden(self, batch: Batch) -> Outputs:
        """The backend, with hidden layers: its own where it gives them, else by the reference formulas in float64."""
        if isinstance(self.evaluator, CpuEvaluator):
            return self.evaluator(batch, hidden=True)
        outputs = self.evaluator(batch)
        model = copy.deepcopy(self._model).to(self.device).set_dtype(torch.float64)
        hidden = of_batch(model, batch, torch.nonzero(batch.active).squeeze(-1))[1]
        return OutputsWithHidden.of(outputs, hidden)

    # --- one step after another -----------------------------------------------------------------------------------

    def _prepared(
        self, items: Iterable[Any], n: int | None, fparam: ArrayLike | None, aparam: Sequence[ArrayLike] | None
    ) -> Iterator[Part]:
        for k, item in enumerate(items):
            if isinstance(item, StructureError):
                yield item
                continue
            try:
                structure = self._structure(k, item, n, fparam, aparam)
                part = structure if self.search else neighborhood(self.config, structure)
            except StructureError as error:
                yield error
            else:
                yield part

    def _structure(
        self, k: int, item: Any, n: int | None, fparam: ArrayLike | None, aparam: Sequence[ArrayLike] | None
    ) -> Structure:
        if isinstance(item, Structure):
            return item
        fp = None
        if fparam is not None:
            rows = np.asarray(fparam, dtype=np.float64)
            fp = rows[k] if rows.ndim == 2 and len(rows) == n else rows
        name = f"structure {k}"
        if aparam is not None and len(aparam) != n:
            raise StructureError(name, f"aparam has {len(aparam)} entries for {n} structures")
        return from_ase(self.config, item, name, fp, None if aparam is None else aparam[k])

    def _stream(
        self, parts: Iterator[Part], atomic_virials: bool, uncertainty: bool, closest: bool
    ) -> Iterator[Result | StructureError]:
        trust = self.uncertainty if uncertainty else None
        return self._streamed(parts, atomic_virials, trust, closest)

    def _streamed(
        self, parts: Iterator[Part], atomic_virials: bool, trust: Uncertainty | None, closest: bool
    ) -> Iterator[Result | StructureError]:
        for pack, batch, outputs in self.scheduler.stream(parts, gradient=atomic_virials, hidden=trust is not None):
            done: Iterator[Result | StructureError] = iter(())
            if batch is not None and outputs is not None:
                self._say_over_sel(batch)
                good = [p for p in pack if not isinstance(p, StructureError)]
                structures = [p.structure if isinstance(p, Neighborhood) else p for p in good]
                done = results_of(
                    structures, batch, outputs, self.precision, atomic_virials, trust, closest, self.dispersion
                )
            for part in pack:
                yield part if isinstance(part, StructureError) else next(done)

    def _say_over_sel(self, batch: Batch) -> None:
        atoms, most = batch.over_sel
        if atoms and not self._warned_over_sel:
            self._warned_over_sel = True
            warnings.warn(
                f"{atoms} atoms have more than sel = {self.config.nsel} neighbours within {self.config.rcut} Å (up to "
                f"{most}); the nearest {self.config.nsel} are kept, as in DeePMD-kit (said once)",
                DPA1Warning,
                stacklevel=4,
            )


def _unpickled(
    config: str, tensors: bytes, device: str, backend: str, precision: str, threads: int, fixed_shape: bool,
    neighbors: str = "auto", dispersion: str | None = None,
) -> Engine:  # fmt: skip
    """The engine that ``Engine.__reduce__`` took apart.

    Raises:
        BackendError: device, backend or precision not available here.
    """
    engine = object.__new__(Engine)
    model = copies.unpacked(config, tensors)
    engine._set_up(model, device, backend, precision, threads, fixed_shape, neighbors, dispersion)
    return engine
