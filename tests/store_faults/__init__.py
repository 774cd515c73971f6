"""Faults of the file system on every read and write of every command (`python -m tests.store_faults`)."""
