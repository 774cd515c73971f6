"""Pre-training and fine-tuning: set-up, loop, state, metrics."""
