"""Inputs made by chance from valid ones, given to the readers that meet what strangers wrote: docs/fuzz.md."""
