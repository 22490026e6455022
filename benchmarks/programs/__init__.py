"""Speed of programs on real shapes: each exporter makes its own in a process apart, and one process times them all."""
