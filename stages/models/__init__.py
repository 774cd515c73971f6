"""The language model and its parts, with and without images."""
