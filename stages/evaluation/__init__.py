"""Scores of a model: text tasks through lm-eval, questions about images through scorers of our own."""
