"""open_lm as the engine of text pre-training."""
