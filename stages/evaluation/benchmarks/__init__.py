"""Published vision benchmarks: their files and their questions."""
