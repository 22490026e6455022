"""The status report: run records in, a static site, Markdown and exit codes out. Needs no torch."""
