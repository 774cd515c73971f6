"""Checkpoints: ours, and open_lm's in both directions."""
