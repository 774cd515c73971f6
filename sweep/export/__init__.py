"""Models as folders that transformers loads, and their index."""
