"""One script per question; run with `python -m benchmarks.NAME`."""
