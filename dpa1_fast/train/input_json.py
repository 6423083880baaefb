"""DeePMD-kit's input.json for energy models with se_atten, dpa1 or se_atten_v2, read as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..checkpoint.parsing import flag, integer, many, number, shown, text
from ..errors import ConfigError
from .fields import Fields
from .input_model import read_model
from .options import (
    BatchOptions,
    DataOptions,
    LossOptions,
    OptimizerOptions,
    Options,
    ScheduleOptions,
    TrainingError,
)


def read_json(path: Path) -> Options:
    """The training that an input.json describes; its paths are relative to where the command runs, as DeePMD-kit's.

    Raises:
        TrainingError: an option that is wrong or not supported, by its name.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be read as JSON ({error})") from None
    top = Fields(path, "", data)
    model = read_model(top.section("model"))
    training = top.section("training")
    steps = training.take("numb_steps", integer, None, "stop_batch", "num_step", "num_steps", "numb_step")
    for key in ("numb_epoch", "num_epochs", "num_epoch", "numb_epochs"):
        training.only(key, None, why="is not supported; give numb_steps")
    if steps is None:
        raise TrainingError(f"{path}: training.numb_steps is missing; give it")
    schedule = _schedule(top.section("learning_rate", {}), steps)
    loss = _loss(top.section("loss", {}))
    optimizer = _optimizer(top.section("optimizer", {}))
    validating = top.section("validating", {})
    top.done()
    try:
        return _options(model, training, validating, steps, schedule, loss, optimizer)
    except ConfigError as error:
        raise TrainingError(f"{path}: {error}") from None


def _options(
    model: Any,
    training: Fields,
    validating: Fields,
    steps: int,
    schedule: ScheduleOptions,
    loss: LossOptions,
    optimizer: OptimizerOptions,
) -> Options:
    train = _data(training.section("training_data"), False)
    valid = _data(training.section("validation_data"), True) if "validation_data" in training else None
    training.only("validation_data", None)
    save = training.take("save_freq", integer, 1000)
    ema = training.take("enable_ema", flag, False)
    decay = training.take("ema_decay", number, 0.999)
    full = validating.take("full_validation", flag, False)
    frequency = validating.take("validation_freq", integer, 5000)
    seed = training.take("seed", integer, None)
    metric = validating.take("validation_metric", text, "loss")
    validating.only("ema_full_validation", False, True)
    validating.only("save_best", True)
    validating.only("max_best_ckpt", 1)
    validating.without_effect("save_best_dir", "full_val_file", "full_val_start")
    for key in ("compiled_infer", "tf32_infer", "amp_infer"):
        validating.only(key, False)
    validating.done()
    for key in ("enable_compile", "enable_tf32", "disp_avg", "change_bias_after_training", "tensorboard"):
        training.only(key, False)
    training.only("stat_file", None, why="is not supported: statistics are made anew in seconds; remove it")
    training.only("acc_freq", 1, why="is not supported; use a larger batch")
    training.only("zero_stage", 0)
    training.only("mixed_precision", None)
    training.only("opt_type", "Adam")
    training.only("ckpt_keep_ratio", None)
    training.without_effect(
        "disp_file", "disp_training", "time_training", "profiling", "profiling_file", "enable_profiler", "save_dir",
        "tensorboard_log_dir", "tensorboard_freq", "save_ckpt", "ema_ckpt_keep", "stat_file_mode",
        "neighbor_graph_method",
    )  # fmt: skip
    options = Options(
        model=model.config,
        train=train,
        valid=valid,
        loss=loss,
        schedule=schedule,
        optimizer=optimizer,
        steps=steps,
        seed=1 if seed is None else seed,
        display=training.take("disp_freq", integer, 1000),
        save=save,
        validate=frequency if full else save,
        keep=training.take("max_ckpt_keep", integer, 5),
        clip=training.take("gradient_max_norm", number, None),
        ema=decay if ema else None,
        metric=metric,
        sel_auto=model.sel_auto,
        type_map_auto=model.type_map_auto,
        statistics_batches=model.statistics_batches,
        protection=model.protection,
        rcond=model.rcond,
        preset_bias=model.preset_bias,
        frozen=model.frozen,
    )
    training.done()
    return options


def _data(f: Fields, validation: bool) -> DataOptions:
    systems = f.take("systems", _texts)
    f.only("rglob_patterns", None, why="is not supported; name the folders in systems, patterns work there")
    f.only("min_pair_dist", 0, 0.0, why="is not supported; leave such frames out")
    f.only("set_prefix", "set")
    rule, size, sizes = f.take("batch_size", _batch, ("auto", 32, ()))
    batch = BatchOptions(
        rule,
        size,
        sizes,
        auto_prob=f.take("auto_prob", text, "prob_sys_size", "auto_prob_style"),
        weights=f.take("sys_probs", many(number), None, "sys_weights") or (),
    )
    count = f.take("numb_btch", integer, 1, "numb_batch", "numb_test") if validation else None
    f.done()
    return DataOptions(systems, batch, count)


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else many(text)(value)


def _batch(value: Any) -> tuple[str, int, tuple[int, ...]]:
    if isinstance(value, list):
        sizes = many(integer)(value)
        return "frames", max(sizes, default=1), sizes
    if not isinstance(value, str):
        return "frames", integer(value), ()
    rule, _, size = value.partition(":")
    if rule in ("mixed", "mix") and size.isdecimal():
        return "atoms", int(size), ()
    if rule in ("auto", "max", "filter") and (size.isdecimal() or (rule == "auto" and not size)):
        return rule, int(size or 32), ()
    raise ValueError("a number, a list of numbers, auto, auto:N, max:N, filter:N or mix:N (structures mixed)")


def _schedule(f: Fields, steps: int) -> ScheduleOptions:
    kind = f.take("type", text, "exp")
    start = f.take("start_lr", number, 1e-3)
    stop, ratio = f.take("stop_lr", number, None), f.take("stop_lr_ratio", number, None)
    if (stop is None) == (ratio is None):
        if stop is not None:
            raise f.error("stop_lr_ratio", "and stop_lr are both there; leave one out")
        stop = 1e-8
    warm, share = f.take("warmup_steps", integer, 0), f.take("warmup_ratio", number, None)
    if warm and share is not None:
        raise f.error("warmup_ratio", "and warmup_steps are both there; leave one out")
    f.only("scale_by_worker", "linear", "sqrt", "none")  # of TensorFlow's trainer; PyTorch's does not scale either
    given: dict[str, Any] = {}
    if kind == "exp":
        given["decay_steps"] = f.take("decay_steps", integer, 5000)
        given["decay_rate"] = f.take("decay_rate", number, None)
        given["smooth"] = f.take("smooth", flag, False)
    if kind == "wsd":
        given["decay_phase_ratio"] = f.take("decay_phase_ratio", number, 0.1)
        given["decay_type"] = f.take("decay_type", text, "inverse_linear")
    options = ScheduleOptions(
        kind=kind,
        start_lr=start,
        stop_lr=start * ratio if stop is None else stop,
        warmup_steps=warm if share is None else int(share * steps),
        warmup_start_factor=f.take("warmup_start_factor", number, 0.0),
        **given,
    )
    f.done()
    return options


def _optimizer(f: Fields) -> OptimizerOptions:
    kind = f.take("type", text, "Adam")
    if kind not in ("Adam", "AdamW", "Muon"):
        raise f.error("type", f"{shown(kind)} is not supported; use Adam, AdamW or Muon (of torch.optim)")
    options = OptimizerOptions(
        kind=kind,
        beta1=f.take("adam_beta1", number, 0.9),
        beta2=f.take("adam_beta2", number, 0.95 if kind == "Muon" else 0.999),
        weight_decay=f.take("weight_decay", number, 0.0 if kind == "Adam" else 0.001),
        momentum=f.take("momentum", number, 0.95, "muon_momentum") if kind == "Muon" else 0.95,
    )
    f.done()
    return options


def _loss(f: Fields) -> LossOptions:
    f.only("type", "ener", why="is not supported; energy models have the loss ener")

    def both(name: str, start: float, limit: float) -> tuple[float, float]:
        return f.take(f"start_pref_{name}", number, start), f.take(f"limit_pref_{name}", number, limit)

    for name in ("h", "pf", "gf"):
        for key in (f"start_pref_{name}", f"limit_pref_{name}"):
            f.only(key, 0, 0.0, why="is not supported; set it to 0")
    f.only("enable_atom_ener_coeff", False)
    f.only("use_default_pf", False)
    f.only("numb_generalized_coord", 0)
    huber, function = f.take("use_huber", flag, False), f.take("loss_func", text, "mse")
    if huber and function == "mae":
        raise f.error("use_huber", "and loss_func 'mae' are both there; leave one out")
    delta = f.take("huber_delta", _deltas, (0.01, 0.01, 0.01))
    options = LossOptions(
        energy=both("e", 0.02, 1.0),
        force=both("f", 1000.0, 1.0),
        virial=both("v", 0.0, 0.0),
        atomic=both("ae", 0.0, 0.0),
        kind="huber" if huber else function,
        huber_delta=delta,
        norm=f.take("f_use_norm", flag, False),
        intensive=f.take("intensive_ener_virial", flag, False),
        relative_force=f.take("relative_f", number, None),
    )
    f.done()
    return options


def _deltas(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, list):
        return (number(value),) * 3
    deltas = many(number)(value)
    if len(deltas) != 3:
        raise ValueError("one number, or three: of energy, force and virial")
    return deltas[0], deltas[1], deltas[2]
