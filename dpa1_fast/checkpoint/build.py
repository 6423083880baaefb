"""From a configuration and the tensors of a file to a model: everything is checked before anything is built or read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ..config import DPA1Config
from ..errors import ModelFileError
from ..model import DPA1
from .raw import Stored

FLOATS = ("float64", "float32", "float16", "bfloat16")
PER_SLOT = ("davg", "dstd")
"""Statistics, which DeePMD-kit stores once for each slot of ``sel``; who finds them checks that."""
Find = Callable[[str], tuple[str, Stored | None]]
Fit = Callable[[str, torch.Tensor], torch.Tensor]


def build(path: Path, config: DPA1Config, held: Iterable[Stored], nbytes: int, find: Find, shape: Fit) -> DPA1:
    """A model with the tensors of a file, parameters in float64.

    Args:
        held: all tensors of the file. nbytes: that their numbers can take at most.
        find: for one of our tensor names, the name in the file and the tensor there (None: the default, zeros).
        shape: turns a tensor of the file into ours, or refuses its shape, before it is read.

    Raises:
        ModelFileError: a tensor missing, of the wrong shape, not finite; or options that the file can't hold.
    """
    _refuse_impossible(path, config, sum(1 for _ in held), nbytes)
    with torch.device("meta"):
        model = DPA1(config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if 2 * sum(math.prod(s) for s in expected.values()) > nbytes:
        raise _too_large(path, "parameters", sum(math.prod(s) for s in expected.values()), nbytes)
    state = {}
    for ours, wanted in expected.items():
        name, stored = find(ours)
        if stored is None:
            state[ours] = torch.zeros(wanted, dtype=torch.float64)
            continue
        if ours not in PER_SLOT and stored.count != math.prod(wanted):
            raise wrong_shape(path, name, stored.shape, wanted)
        tensor = shape(ours, _read(path, name, stored))
        if tuple(tensor.shape) != wanted:
            raise wrong_shape(path, name, tuple(tensor.shape), wanted)
        state[ours] = tensor.clone()
    if (state["dstd"] == 0).any():
        raise ModelFileError(path, f"has zeros in {find('dstd')[0]}", "compute its statistics again")
    with torch.device("cpu"):
        fresh = DPA1(config) if config.use_econf_tebd else model
    fresh.load_state_dict(state, assign=True)
    return fresh


def wrong_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> ModelFileError:
    """The error for a tensor whose shape is not what the options say."""
    told = f"the tensor {name} has shape {found}, its options say {wanted}"
    return ModelFileError(path, told, "write the file again with the program that made it")


def _refuse_impossible(path: Path, config: DPA1Config, tensors: int, nbytes: int) -> None:
    """Refuses more layers than the file has tensors, and layers wider than the file is long."""
    c, f = config, config.fitting
    layers = len(c.neuron) + c.attn_layer + len(f.neuron)
    if layers > tensors:
        raise _too_large(path, "layers", layers, nbytes)
    widths = (*c.neuron, c.axis_neuron, c.tebd_dim, *f.neuron, f.numb_fparam, f.numb_aparam, f.dim_case_embd)
    widest = max((*widths, c.attn if c.attn_layer else 0))
    if widest > nbytes:
        raise _too_large(path, "channels", widest, nbytes)


def _too_large(path: Path, what: str, count: int, nbytes: int) -> ModelFileError:
    told = f"has options of {count:,} {what}, which its {nbytes:,} bytes can't hold"
    return ModelFileError(path, told, "write the file again with the program that made it")


def _read(path: Path, name: str, stored: Stored) -> torch.Tensor:
    if stored.dtype not in FLOATS:
        raise ModelFileError(path, f"holds {stored.dtype} in {name}, not floating point", "write the file again")
    tensor = stored.read().to(torch.float64)
    if not torch.isfinite(tensor).all():
        raise ModelFileError(path, f"has non-finite weights (NaN or infinite) in {name}", "train or copy it again")
    return tensor
