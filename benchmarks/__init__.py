"""What is measured, each a program of its own: benchmarks/README.md."""
