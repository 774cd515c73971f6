"""Notices: tests of the parts, and the fault campaign (`python -m tests.sweep.notices`)."""
