"""The hyper-parameters of a DPA-1 energy model, in the field's own names, validated once."""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
import types
import typing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .electrons import SYMBOLS
from .errors import ConfigError
from .kernels.reference import activation

TEBD_INPUT_MODES = ("concat", "strip")
LONGEST_RCUT = 100.0
"""Å. A model that claims more would look at millions of neighbours; it is a mistake, or worse."""


@dataclass(frozen=True)
class FittingConfig:
    """The energy net: descriptor (and parameters) in, one atomic energy out (spec of ``fitting_net``)."""

    neuron: tuple[int, ...] = (128, 128, 128)
    resnet_dt: bool = True
    activation_function: str = "tanh"
    precision: str = "float64"
    numb_fparam: int = 0
    numb_aparam: int = 0
    dim_case_embd: int = 0
    default_fparam: tuple[float, ...] | None = None
    use_aparam_as_mask: bool = False
    atom_ener: tuple[float | None, ...] = ()
    exclude_types: tuple[int, ...] = ()

    @property
    def subtract_vacuum(self) -> bool:
        """Whether the net's value at zero descriptor is subtracted (some ``atom_ener`` is set)."""
        return any(e is not None for e in self.atom_ener)

    @property
    def numb_aparam_in(self) -> int:
        """Atomic parameters that enter the net (none when they are only a mask)."""
        return 0 if self.use_aparam_as_mask else self.numb_aparam


@dataclass(frozen=True)
class DPA1Config:
    """Everything that defines a DPA-1 energy model except its weights.

    Lengths in Å. ``precision`` is the arithmetic the weights were trained in; evaluation chooses its own.

    Raises:
        ConfigError: on construction, naming the first field that is wrong.
    """

    type_map: tuple[str, ...]
    rcut: float
    rcut_smth: float
    sel: tuple[int, ...]
    neuron: tuple[int, ...] = (25, 50, 100)
    axis_neuron: int = 16
    tebd_dim: int = 8
    tebd_input_mode: str = "concat"
    type_one_side: bool = False
    smooth_type_embedding: bool = True
    set_davg_zero: bool = True
    attn: int = 128
    attn_layer: int = 2
    attn_dotr: bool = True
    normalize: bool = True
    scaling_factor: float = 1.0
    temperature: float | None = None
    activation_function: str = "tanh"
    resnet_dt: bool = False
    exclude_types: tuple[tuple[int, int], ...] = ()
    env_protection: float = 0.0
    ln_eps: float = 1e-5
    trainable_ln: bool = True
    use_econf_tebd: bool = False
    use_tebd_bias: bool = False
    concat_output_tebd: bool = True
    precision: str = "float64"
    fitting: FittingConfig = field(default_factory=FittingConfig)
    pair_exclude_types: tuple[tuple[int, int], ...] = ()
    atom_exclude_types: tuple[int, ...] = ()

    @property
    def ntypes(self) -> int:
        """Number of types."""
        return len(self.type_map)

    @property
    def nsel(self) -> int:
        """Most neighbours that one atom may have; beyond them only the nearest are kept."""
        return sum(self.sel)

    @property
    def attention_scale(self) -> float:
        """Factor on q: ``temperature`` when set, else (attn·scaling_factor)^(−1/2)."""
        if self.temperature is not None:
            return self.temperature
        return float((self.attn * self.scaling_factor) ** -0.5)

    @property
    def tebd_inputs(self) -> int:
        """Width of the type part of the embedding's input."""
        return self.tebd_dim * (1 if self.type_one_side else 2)

    @cached_property
    def types_by_name(self) -> tuple[tuple[str, int], ...]:
        """Each name of ``type_map`` with its index."""
        return tuple((symbol, t) for t, symbol in enumerate(self.type_map))

    @property
    def dim_descrpt(self) -> int:
        """Width of the descriptor that the fitting net reads."""
        return self.neuron[-1] * self.axis_neuron + (self.tebd_dim if self.concat_output_tebd else 0)

    @property
    def dim_fitting_in(self) -> int:
        """Width of the fitting net's input: [descriptor | fparam | aparam | case_embd]."""
        f = self.fitting
        return self.dim_descrpt + f.numb_fparam + f.numb_aparam_in + f.dim_case_embd

    def __post_init__(self) -> None:
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise ConfigError(message)

        _check_types(self)
        _check_types(self.fitting)
        check(self.ntypes > 0, "type_map is empty")
        check(all(0 < len(t) <= 64 and t.isprintable() for t in self.type_map), "type_map holds a name that is none")
        check(len(set(self.type_map)) == self.ntypes, f"type_map names a type twice: {list(self.type_map)}")
        check(self.rcut <= LONGEST_RCUT, f"rcut {self.rcut} Å is beyond {LONGEST_RCUT} Å")
        check(0 <= self.rcut_smth < self.rcut, f"rcut_smth {self.rcut_smth} must lie in [0, rcut = {self.rcut})")
        check(bool(self.sel) and all(n >= 0 for n in self.sel) and self.nsel > 0, f"sel {self.sel} must be positive")
        check(self.nsel < 2**31, f"sel {self.sel} is too large")
        check(bool(self.neuron) and min(self.neuron) > 0, f"neuron {self.neuron} must be positive widths")
        check(0 < self.axis_neuron <= self.neuron[-1], f"axis_neuron {self.axis_neuron} must lie in 1..neuron[-1]")
        check(self.tebd_dim > 0, f"tebd_dim {self.tebd_dim} must be positive")
        check(self.tebd_input_mode in TEBD_INPUT_MODES, f"tebd_input_mode {self.tebd_input_mode!r} is not known")
        check(self.attn_layer >= 0, f"attn_layer {self.attn_layer} must not be negative")
        check(self.attn > 0 or self.attn_layer == 0, f"attn {self.attn} must be positive")
        check(self.scaling_factor > 0, f"scaling_factor {self.scaling_factor} must be positive")
        check(self.ln_eps >= 0, f"ln_eps {self.ln_eps} must not be negative")
        check(self.env_protection >= 0, f"env_protection {self.env_protection} must not be negative")
        for name in (self.activation_function, self.fitting.activation_function):
            try:
                activation(name)
            except (KeyError, ValueError, OverflowError):
                raise ConfigError(f"activation_function {name!r} is not known") from None
        for pair in (*self.exclude_types, *self.pair_exclude_types):
            check(len(pair) == 2, f"exclude_types {pair} is not a pair of types")
        f = self.fitting
        check(all(n > 0 for n in f.neuron), f"fitting neuron {f.neuron} must be positive widths")
        counts = (f.numb_fparam, f.numb_aparam, f.dim_case_embd)
        check(min(counts) >= 0, "numb_fparam, numb_aparam and dim_case_embd must not be negative")
        check(len(f.atom_ener) in (0, self.ntypes), f"atom_ener has {len(f.atom_ener)} entries for {self.ntypes} types")
        if self.use_econf_tebd:
            unknown = next((t for t in self.type_map if t not in SYMBOLS), None)
            check(unknown is None, f"use_econf_tebd needs elements, but type_map names {unknown!r}")
        if f.default_fparam is not None and f.numb_fparam:
            check(len(f.default_fparam) == f.numb_fparam, "default_fparam must have numb_fparam entries")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary from which ``from_dict`` makes the same configuration."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DPA1Config:
        """The configuration that ``to_dict`` wrote.

        Raises:
            ConfigError: for a missing or unknown key, or a value that fails validation.
        """
        inner = data.get("fitting", {}) if isinstance(data, dict) else None
        if not isinstance(inner, dict):
            raise ConfigError("not a DPA-1 configuration: not a mapping")
        data = {k: _tuples(v) for k, v in data.items() if k != "fitting"}
        try:
            fitting = FittingConfig(**{k: _tuples(v) for k, v in inner.items()})
            return cls(**data, fitting=fitting)
        except TypeError as error:
            raise ConfigError(f"not a DPA-1 configuration: {error}") from None


def _check_types(config: DPA1Config | FittingConfig) -> None:
    """Each field is of the type that it is declared with, and finite.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name, declared in typing.get_type_hints(type(config)).items():
        if not _is(getattr(config, name), declared):
            told = reprlib.repr(getattr(config, name))
            raise ConfigError(f"{name} must be {_spelled(declared)}, not {told}")


def _is(value: Any, declared: Any) -> bool:
    inner = typing.get_args(declared)
    if isinstance(declared, types.UnionType):
        return any(_is(value, t) for t in inner)
    if typing.get_origin(declared) is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        return all(_is(v, inner[0]) for v in value) if inner[-1] is Ellipsis else all(map(_is, value, inner))
    if declared is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and _finite(value)
    if declared is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(int(value)) < 2**63
    return value is None if declared is type(None) else isinstance(value, declared)


def _finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _spelled(declared: Any) -> str:
    text = declared.__name__ if isinstance(declared, type) else str(declared)
    return text.replace("float", "a finite number").replace("tuple", "list").replace("NoneType", "nothing")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
