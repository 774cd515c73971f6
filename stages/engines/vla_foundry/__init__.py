"""VLA Foundry as the engine of pre-training."""
