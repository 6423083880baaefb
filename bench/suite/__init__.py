"""The benchmark suite: what is timed, under pytest-benchmark (``make bench``) and in pairs (``make bench-compare``)."""
