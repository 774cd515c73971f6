"""Tests of `sweep.forecast`."""
