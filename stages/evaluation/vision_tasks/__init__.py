"""The published vision benchmarks, a file each; `registry.FAMILIES` names them."""
