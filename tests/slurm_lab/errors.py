"""What a person can put right about a cluster that does not start."""


class LabError(Exception):
    """The message says what was found, what is needed, and which log to read."""
