"""Preparing and checking training data: text to token shards, and what a stage would refuse or skip.

`python -m stages.prepare` is the program behind `sweep data text` and `sweep data check`.
"""
