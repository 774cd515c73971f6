"""Execution: the store, the cluster protocol and its backends, submission, accounting.

Knows jobs, no grid; never imports torch.
"""
