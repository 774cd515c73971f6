"""A number with its noun, as messages of all packages say it."""


def format_counted(number: int, word: str, several: str = "") -> str:
    """`1 job`, `2,710 jobs`. `several`: the words for more than one or none, where that is not `word` with an s:
    `format_counted(2, "job has", "jobs have")`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {several or f'{word}s'}"
