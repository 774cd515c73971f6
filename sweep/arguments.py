"""Types of options that several commands have."""

import argparse


def parse_positive_int(text: str) -> int:
    """A whole number of at least 1, or argparse's error."""
    number = parse_count(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def parse_count(text: str) -> int:
    """A whole number, 0 included, or argparse's error."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def parse_amount(text: str) -> float:
    """A number of at least 0, or argparse's error."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number
