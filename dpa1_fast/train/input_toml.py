"""Our own short input: TOML whose sections are the model (in DPA-1's names), data, loss, learning rate and training."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoint.parsing import flag, integer, many, number, text
from ..config import DPA1Config, FittingConfig
from ..errors import ConfigError
from .fields import MISSING, Fields
from .options import BatchOptions, DataOptions, LossOptions, OptimizerOptions, Options, ScheduleOptions, TrainingError


def read_toml(path: Path) -> Options:
    """The training that a TOML describes. What is left out has a default; ``type_map`` and ``sel`` come from the data.

    Raises:
        TrainingError: an option that is wrong or unknown, by its name.
    """
    top = _read(path)
    model = top.section("model")
    type_map = model.take("type_map", many(text), None)
    sel = model.take("sel", _sizes, None)
    train, valid = _data(top.section("data"))
    config = _model(model, type_map, sel)
    return _options(top, config, train, valid, sel_auto=None if sel else 1.1, type_map_auto=not type_map)


def read_settings(
    path: Path | None,
    config: DPA1Config,
    train: tuple[str, ...],
    valid: tuple[str, ...],
    length: Callable[[tuple[str, ...]], tuple[int, float]],
    fixed: int | None = None,
) -> Options:
    """The training of a model that is there already, on data that is named; a TOML without ``model`` says the rest.

    Args:
        path: the TOML; None: defaults, for a fine-tuning. train, valid: data, each in place of what the TOML names.
        length: steps and first learning rate for training data where the TOML does not say.
        fixed: steps, whatever the TOML says.

    Raises:
        TrainingError: an option that is wrong or unknown, by its name; no data is named.
    """
    top = Fields(Path("the defaults"), "", {}) if path is None else _read(path)
    named = _data(top.section("data", {}), train, valid)
    steps, rate = length(named[0].systems)
    rates = ScheduleOptions(start_lr=rate, decay_steps=1, smooth=True)
    return _options(top, config, *named, steps=steps, rates=rates, fixed=fixed)


def read_student(path: Path | None, defaults: Options, fixed: int | None = None) -> Options:
    """The training of a student; a TOML may say otherwise than ``defaults`` in any section, ``[model]`` too.

    Args:
        fixed: steps, whatever the TOML says.

    Raises:
        TrainingError: an option that is wrong or unknown, by its name; data are named elsewhere.
    """
    top = Fields(Path("the defaults"), "", {}) if path is None else _read(path)
    model, data = top.section("model", {}), top.section("data", {})
    fitting = model.section("fitting", {})
    given = _given(model, DPA1Config, ("type_map", "sel", "fitting"))
    try:
        net = dataclasses.replace(defaults.model.fitting, **_given(fitting, FittingConfig))
        config = dataclasses.replace(defaults.model, **given, fitting=net)
    except ConfigError as error:
        raise TrainingError(f"{top.path}: {error}") from None
    batch = BatchOptions("atoms", data.take("batch_atoms", integer, defaults.train.batch.size))
    data.done()
    training = _training(top.section("training", {}), defaults.steps, fixed, defaults)
    options = dataclasses.replace(
        defaults,
        model=config,
        train=dataclasses.replace(defaults.train, batch=batch),
        loss=_same(top.section("loss", {}), defaults.loss),
        schedule=_same(top.section("learning_rate", {}), defaults.schedule),
        optimizer=_same(top.section("optimizer", {}), defaults.optimizer),
        **training,
    )
    top.done()
    return options


def _read(path: Path) -> Fields:
    try:
        return Fields(path, "", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as TOML ({error})") from None


def _options(
    top: Fields,
    config: DPA1Config,
    train: DataOptions,
    valid: DataOptions | None,
    steps: int | None = None,
    rates: ScheduleOptions | None = None,
    fixed: int | None = None,
    **given: Any,
) -> Options:
    """What all but the model and the data says. steps, rates: defaults. fixed: steps, whatever is said."""
    training = _training(top.section("training", {} if steps else MISSING), steps, fixed)
    options = Options(
        model=config,
        train=train,
        valid=valid,
        loss=_same(top.section("loss", {}), LossOptions()),
        schedule=_same(top.section("learning_rate", {}), rates or ScheduleOptions()),
        optimizer=_same(top.section("optimizer", {}), OptimizerOptions()),
        **given,
        **training,
    )
    top.done()
    return options


def _training(
    f: Fields, steps: int | None, fixed: int | None = None, defaults: Options | None = None
) -> dict[str, Any]:
    def usual(name: str, value: Any) -> Any:
        return value if defaults is None else getattr(defaults, name)

    save = f.take("save", integer, usual("save", 1000))
    out = {
        "steps": f.take("steps", integer, steps or MISSING),
        "seed": f.take("seed", integer, usual("seed", 1)),
        "display": f.take("display", integer, usual("display", 100)),
        "save": save,
        "validate": f.take("validate", integer, save),
        "keep": f.take("keep", integer, usual("keep", 3)),
        "clip": f.take("clip", number, usual("clip", None)),
        "ema": f.take("ema", number, usual("ema", None)),
        "metric": f.take("metric", text, usual("metric", "loss")),
        "frozen": f.take("frozen", many(text), ()),
    }
    f.done()
    return out if fixed is None else {**out, "steps": fixed}


def _data(
    f: Fields, train: tuple[str, ...] | None = None, valid: tuple[str, ...] = ()
) -> tuple[DataOptions, DataOptions | None]:
    """train, valid: data named elsewhere, each in place of the section's; None where it can be named here only."""
    here = f.take("train", many(text), MISSING if train is None else ()), f.take("valid", many(text), ())
    if train is not None and not (train or here[0]):
        raise TrainingError("no data is named; give DATA, or train in the section data of --settings")
    train, valid = train or here[0], valid or here[1]
    batch = BatchOptions("atoms", f.take("batch_atoms", integer, 256))
    count = f.take("valid_batches", integer, 8)
    f.done()
    return DataOptions(train, batch), DataOptions(valid, batch, count) if valid else None


def _model(f: Fields, type_map: tuple[str, ...] | None, sel: tuple[int, ...] | None) -> DPA1Config:
    fitting = f.section("fitting", {})
    given = _given(f, DPA1Config, ("type_map", "sel", "fitting"))
    try:
        given_fitting = _given(fitting, FittingConfig)
        given_fitting.setdefault("precision", given.setdefault("precision", "float32"))
        return DPA1Config(type_map=type_map or ("H",), sel=sel or (1,), fitting=FittingConfig(**given_fitting), **given)
    except ConfigError as error:
        raise TrainingError(f"{f.path}: {error}") from None
    except TypeError as error:
        raise TrainingError(f"{f.path}: the section model is not complete ({error}); give rcut and rcut_smth") from None


def _same(f: Fields, default: Any) -> Any:
    """A dataclass like another one, with what a section of its names gives."""
    return dataclasses.replace(default, **_given(f, type(default)))


def _given(f: Fields, kind: type[Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a section gives of a dataclass's fields, as these are declared: tuples for lists, numbers for numbers."""
    out = {}
    for field in dataclasses.fields(kind):
        if field.name not in without:
            value = f.take(field.name, _plain(field), MISSING if field.name in f.values else None)
            if value is not None:
                out[field.name] = value
    f.done()
    return out


def _plain(field: dataclasses.Field[Any]) -> Callable[[Any], Any]:
    default, declared = field.default, str(field.type)
    if isinstance(default, bool):
        return flag
    if isinstance(default, str):
        return text
    if isinstance(default, int):
        return integer
    if declared.startswith("float"):
        return number
    if isinstance(default, tuple) and default and all(isinstance(x, float) for x in default):
        return _numbers(len(default))
    return _tuples


def _numbers(count: int) -> Callable[[Any], tuple[float, ...]]:
    def convert(value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(f"a list of {count} numbers")
        return many(number)(value)

    return convert


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(x) for x in value)
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    return many(integer)(value) if isinstance(value, list) else (integer(value),)
