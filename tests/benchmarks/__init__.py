"""The benchmarks' own tests: what is measured, compared and printed. Nothing is timed for its time."""
