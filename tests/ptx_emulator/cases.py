"""What is evaluated with emulated kernels; see ``evaluate.py`` for what a case says."""

from __future__ import annotations

from typing import Any

NARROW: dict[str, Any] = {"neuron": [4, 8, 16], "attn": 16}
STRIP: dict[str, Any] = {"tebd_input_mode": "strip", "resnet_dt": True}
HARD: dict[str, Any] = {"smooth_type_embedding": False}

QUICK: dict[str, dict[str, Any]] = {
    "bfloat16 on sm_90, coordinates": {"options": NARROW, "precision": "bfloat16", "neighbors": [5, 17]},
    "tf32 on sm_80, all channels": {
        "options": NARROW | {"attn_layer": 1}, "precision": "tf32", "neighbors": [3, 20], "architecture": "sm_80",
        "coordinates": False, "schedules": 2, "small": True,
    },
}  # fmt: skip


def _case(options: dict[str, Any], precision: str, neighbors: list[int], **more: Any) -> dict[str, Any]:
    return {"options": options, "precision": precision, "neighbors": neighbors, "schedules": 2, **more}


def everything() -> dict[str, dict[str, Any]]:
    """The production model's widths and others, all precisions, both architectures, up to 200 neighbours."""
    full: dict[str, Any] = {"coordinates": False}
    wide: dict[str, Any] = {"neuron": [32, 64, 128], "attn": 256, "attn_layer": 3}
    out: dict[str, dict[str, Any]] = {}
    for precision in ("tf32", "bfloat16"):
        out[f"{precision}, coordinates, hard"] = _case(HARD, precision, [5, 70, 120])
        out[f"{precision}, coordinates, one layer, strip"] = _case(STRIP | {"attn_layer": 1}, precision, [5, 40, 64])
        out[f"{precision}, coordinates, 130 neighbours"] = _case(HARD, precision, [130])
        out[f"{precision}, three layers"] = _case(STRIP | {"attn_layer": 3}, precision, [5, 17, 30], **full)
        out[f"{precision}, lengths as they are, 200 neighbours"] = _case(
            HARD | {"attn_layer": 1, "normalize": False}, precision, [130, 200], **full
        )
        out[f"{precision}, no dotr"] = _case({"attn_dotr": False}, precision, [5, 40], **full)
    for precision in ("tf32", "bfloat16", "float32"):
        out[f"{precision}, 128 channels"] = _case(wide, precision, [5, 17, 64], **full)
        out[f"{precision}, no attention"] = _case(STRIP | {"attn_layer": 0}, precision, [0, 5, 40], **full)
        out[f"{precision}, no attention, by series"] = _case(STRIP | {"attn_layer": 0}, precision, [0, 5, 40])
        out[f"{precision} on sm_80"] = _case({}, precision, [5, 40, 64], architecture="sm_80", **full)
    out["float32, two layers"] = _case({}, "float32", [17, 64], **full)
    out["float32, strip, 120 neighbours"] = _case(STRIP, "float32", [5, 70, 120], **full)
    out["float16, coordinates, hard"] = _case(HARD, "float16", [5, 70, 120])
    out["random order"] = QUICK["bfloat16 on sm_90, coordinates"] | {"neighbors": [1, 33, 60], "schedules": 3}
    return out
