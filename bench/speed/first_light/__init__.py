"""First light: what a card without a network says in minutes, the most valuable first; see ``docs/first_light.md``."""

BARS = {"bfloat16": 2e-2, "tf32": 3e-3, "float32": 2e-5, "float64": 1e-10, "float16": 3e-3}
"""Largest RMS force error over the RMS force, by precision, in the order in which precisions are tried."""
