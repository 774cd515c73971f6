"""Histories of a sweep on machines whose clocks differ by hours."""
