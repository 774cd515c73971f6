"""`import sweep`: the sweeps of a store for notebooks and scripts (docs/python.md). Nothing here prints."""
