"""The demo's data, made on the spot: a world of drawn shapes, and English from Python's own documentation.

Nothing is downloaded. Same seed, same Python and same packages give the same bytes.
"""
