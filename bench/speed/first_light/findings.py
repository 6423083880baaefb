"""What lines say, gathered for a page: the newest run of the newest code, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass
class Findings:
    """Of one kit on one device.

    Attributes:
        kit: its digest and device. ends: step → how it ended, "not ended" where it was begun and nothing more was said.
        rows: step → facts of its last run, in order. times: step → seconds.
    """

    kit: str = ""
    ends: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def of(self, group: str) -> list[Row]:
        """Facts of all steps whose name is this or begins with it and a hyphen."""
        return [r for s, rows in self.rows.items() if s == group or s.startswith(f"{group}-") for r in rows]

    def value(self, step: str, key: str) -> Any:
        """The last that a step said of this; None where it said nothing."""
        return next((r[key] for r in reversed(self.rows.get(step, [])) if key in r), None)

    @property
    def device(self) -> str:
        """What ran it, by the name that it said."""
        if self.kit.endswith("cpu"):
            return "no card: a rehearsal in Triton's interpreter"
        return str(self.value("facts", "device") or f"{self.kit.split()[-1] if self.kit else 'a card'}, not named")

    def wrong(self) -> list[Row]:
        """Everything that was judged and is not right, and every error."""
        every = [r for rows in self.rows.values() for r in rows]
        return [r for r in every if r.get("right") is False or "error" in r]


def gather(lines: Sequence[Row]) -> Findings:
    """Of the lines' last kit: a step that was run twice counts as it was run last, unless that said nothing."""
    out = Findings(kit=str(lines[-1].get("kit", "")) if lines else "")
    for row in lines:
        if row.get("kit", "") != out.kit:
            continue
        step = row["step"]
        if step == "run":
            out.missing = list(row.get("left_out", out.missing))
        elif "begin" in row:
            if out.ends.get(step) != "done":
                out.rows[step] = []
            out.ends[step] = "not ended"
        elif "end" in row:
            out.ends[step], out.times[step] = row["end"], row.get("seconds", 0.0)
        else:
            out.rows.setdefault(step, []).append(row)
    return out


def verdicts(found: Findings) -> list[tuple[str, str, bool | None]]:
    """(what, in words, right?) of the questions that come first; None where nothing was said."""
    out = []
    for what, group in (
        ("whole evaluations", "evaluations"), ("each kernel", "kernels"), ("DeePMD-kit's files", "deepmd"),
        ("the same bits again", "repeats"), ("systems of all sizes", "sizes"), ("CUDA graphs", "graph"),
        ("scheduler", "scheduler"), ("full memory", "memory"), ("compute-sanitizer", "sanitize"),
    ):  # fmt: skip
        judged = [r for r in found.of(group) if r.get("right") is not None]
        bad = sum(r["right"] is False for r in judged)
        steps = [s for s in found.ends if s == group or s.startswith(f"{group}-")]
        broken = [s for s in steps if found.ends[s] not in ("done", "no time left")]
        words = f"{len(judged) - bad} of {len(judged)} right" if judged else "nothing judged"
        words += f"; not ended well: {', '.join(f'{s} ({found.ends[s]})' for s in broken)}" if broken else ""
        out.append((what, words, None if not judged and not broken else not bad and not broken))
    return out
