"""The suite's words: contract, cells, verdicts, text, files, versions, paths. Imports nothing of the other rooms."""
