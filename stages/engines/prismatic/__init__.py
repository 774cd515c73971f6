"""Prismatic as the engine of fine-tuning."""
