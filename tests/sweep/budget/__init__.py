"""Budgets: tests of the parts, and campaigns by chance that would pass theirs (`python -m tests.sweep.budget`)."""
