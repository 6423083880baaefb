"""The hyper-parameters of a DPA-1 energy model, in the field's own names, validated once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

from .electrons import SYMBOLS
from .errors import ConfigError
from .kernels.reference import parse_activation

TEBD_INPUT_MODES = ("concat", "strip")
PRECISIONS = ("float64", "float32", "float16", "bfloat16")

WIDEST, DEEPEST, MOST_SLOTS, LONGEST = 1 << 16, 256, 1 << 20, 1000.0
"""No network is wider than this or has more layers, no atom more neighbours, no cut-off is longer (Å): larger numbers
come from damaged files, and building what they say would take all memory there is."""


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ConfigError(f"{name} is {short(value)}; it must be a whole number from {low} to {high}")


def _each_whole(name: str, values: Any, low: int, high: int) -> None:
    if not isinstance(values, tuple):
        raise ConfigError(f"{name} is {short(values)}; it must be a tuple of whole numbers")
    for k, value in enumerate(values):
        _whole(f"{name}[{k}]", value, low, high)


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not finite or not low <= float(value) <= high:
        most = "" if math.isinf(high) else f" and at most {high:g}"
        limits = "" if math.isinf(low) else f" of at least {low:g}{most}"
        raise ConfigError(f"{name} is {short(value)}; it must be a finite number{limits}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {short(value)}; it must be True or False")


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {short(value)} is not known; known are {', '.join(known)}")


def _activation(value: Any) -> None:
    try:
        parse_activation(value)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _pairs(name: str, pairs: Any) -> None:
    if not isinstance(pairs, tuple) or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ConfigError(f"{name} is {short(pairs)}; it must be a tuple of pairs of types")
    for pair in pairs:
        _each_whole(name, pair, -WIDEST, WIDEST)


@dataclass(frozen=True)
class FittingConfig:
    """The energy net: descriptor (and parameters) in, one atomic energy out (spec of ``fitting_net``).

    Raises:
        ConfigError: on construction, naming the first field that is wrong.
    """

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

    def __post_init__(self) -> None:
        _each_whole("fitting neuron", self.neuron, 1, WIDEST)
        if len(self.neuron) > DEEPEST:
            raise ConfigError(f"fitting neuron has {len(self.neuron)} layers; the most are {DEEPEST}")
        for name in ("numb_fparam", "numb_aparam", "dim_case_embd"):
            _whole(name, getattr(self, name), 0, WIDEST)
        for name in ("resnet_dt", "use_aparam_as_mask"):
            _flag(name, getattr(self, name))
        _activation(self.activation_function)
        _one_of("fitting precision", self.precision, PRECISIONS)
        _each_whole("fitting exclude_types", self.exclude_types, -WIDEST, WIDEST)
        if not isinstance(self.atom_ener, tuple):
            raise ConfigError(f"atom_ener is {short(self.atom_ener)}; it must be a tuple")
        for energy in self.atom_ener:
            if energy is not None:
                _number("one of atom_ener", energy)
        if self.default_fparam is not None:
            if not isinstance(self.default_fparam, tuple):
                raise ConfigError(f"default_fparam is {short(self.default_fparam)}; it must be a tuple")
            for value in self.default_fparam:
                _number("one of default_fparam", value)
            if self.numb_fparam and len(self.default_fparam) != self.numb_fparam:
                raise ConfigError("default_fparam must have numb_fparam entries")


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
        self._check_types()
        self._check_sizes()
        for name in _FLAGS:
            _flag(name, getattr(self, name))
        _one_of("tebd_input_mode", self.tebd_input_mode, TEBD_INPUT_MODES)
        _one_of("precision", self.precision, PRECISIONS)
        _activation(self.activation_function)
        _number("env_protection", self.env_protection, 0.0)
        _number("ln_eps", self.ln_eps, 0.0)
        if self.temperature is not None:
            _number("temperature", self.temperature)
        elif self.attn_layer:
            _number("scaling_factor", self.scaling_factor)
            if self.scaling_factor <= 0:
                raise ConfigError(f"scaling_factor {self.scaling_factor} must be positive")
        if not isinstance(self.fitting, FittingConfig):
            raise ConfigError(f"fitting is a {type(self.fitting).__name__}; it must be a FittingConfig")
        energies = len(self.fitting.atom_ener)
        if energies not in (0, len(self.type_map)):
            raise ConfigError(f"atom_ener has {energies} entries for {len(self.type_map)} types")
        unknown = next((t for t in self.type_map if t not in SYMBOLS), None)
        if self.use_econf_tebd and unknown is not None:
            raise ConfigError(f"use_econf_tebd needs elements, but type_map names {unknown!r}")

    def _check_types(self) -> None:
        names = self.type_map
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"type_map is {short(names)}; it is empty or not a tuple of names")
        if not all(len(name) <= 64 and name.isprintable() for name in names):
            raise ConfigError("type_map holds a name of over 64 characters or with characters that cannot be printed")
        if len(set(names)) < len(names):
            raise ConfigError(f"type_map names a type twice: {short(list(names))}")
        _whole("the number of types", len(names), 1, WIDEST)
        _pairs("exclude_types", self.exclude_types)
        _pairs("pair_exclude_types", self.pair_exclude_types)
        _each_whole("atom_exclude_types", self.atom_exclude_types, -WIDEST, WIDEST)

    def _check_sizes(self) -> None:
        _number("rcut", self.rcut, 0.0, LONGEST)
        _number("rcut_smth", self.rcut_smth, 0.0, LONGEST)
        if not self.rcut_smth < self.rcut:
            raise ConfigError(f"rcut_smth {self.rcut_smth} must lie in [0, rcut = {self.rcut})")
        _each_whole("sel", self.sel, 0, MOST_SLOTS)
        _whole("the sum of sel", self.nsel, 1, MOST_SLOTS)
        _each_whole("neuron", self.neuron, 1, WIDEST)
        _whole("the number of layers in neuron", len(self.neuron), 1, DEEPEST)
        _whole("axis_neuron", self.axis_neuron, 1, self.neuron[-1])
        _whole("tebd_dim", self.tebd_dim, 1, WIDEST)
        _whole("attn_layer", self.attn_layer, 0, DEEPEST)
        _whole("attn", self.attn, 1 if self.attn_layer else 0, WIDEST)

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


_FLAGS = (
    "type_one_side", "smooth_type_embedding", "set_davg_zero", "attn_dotr", "normalize", "resnet_dt", "trainable_ln",
    "use_econf_tebd", "use_tebd_bias", "concat_output_tebd",
)  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
