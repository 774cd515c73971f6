"""Compute: the pretrain, finetune and evaluate stages, imported inside a job.

`stages.config`, `stages.schedule` and `stages.vision.specs` are torch-free, for the planner.
"""
