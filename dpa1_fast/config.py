"""The hyper-parameters of a DPA-1 energy model, in the field's own names, validated once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .errors import ConfigError
from .kernels.reference import activation

TEBD_INPUT_MODES = ("concat", "strip")


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

        check(self.ntypes > 0, "type_map is empty")
        check(len(set(self.type_map)) == self.ntypes, f"type_map names a type twice: {list(self.type_map)}")
        check(0 <= self.rcut_smth < self.rcut, f"rcut_smth {self.rcut_smth} must lie in [0, rcut = {self.rcut})")
        check(bool(self.sel) and all(n >= 0 for n in self.sel) and self.nsel > 0, f"sel {self.sel} must be positive")
        check(bool(self.neuron) and min(self.neuron) > 0, f"neuron {self.neuron} must be positive widths")
        check(0 < self.axis_neuron <= self.neuron[-1], f"axis_neuron {self.axis_neuron} must lie in 1..neuron[-1]")
        check(self.tebd_dim > 0, f"tebd_dim {self.tebd_dim} must be positive")
        check(self.tebd_input_mode in TEBD_INPUT_MODES, f"tebd_input_mode {self.tebd_input_mode!r} is not known")
        check(self.attn_layer >= 0, f"attn_layer {self.attn_layer} must not be negative")
        check(self.attn > 0 or self.attn_layer == 0, f"attn {self.attn} must be positive")
        check(self.env_protection >= 0, f"env_protection {self.env_protection} must not be negative")
        for name in (self.activation_function, self.fitting.activation_function):
            try:
                activation(name)
            except (KeyError, ValueError):
                raise ConfigError(f"activation_function {name!r} is not known") from None
        for pair in (*self.exclude_types, *self.pair_exclude_types):
            check(len(pair) == 2, f"exclude_types {pair} is not a pair of types")
        f = self.fitting
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
        data = {k: _tuples(v) for k, v in data.items()}
        try:
            fitting = FittingConfig(**{k: _tuples(v) for k, v in data.pop("fitting", {}).items()})
            return cls(**data, fitting=fitting)
        except TypeError as error:
            raise ConfigError(f"not a DPA-1 configuration: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
