"""Benchmarks: named systems, timing, and comparisons that print a speed only where parity holds."""
