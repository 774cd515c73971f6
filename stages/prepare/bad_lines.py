"""Lines that are no document: counted, shown with their place, and refused beyond a limit."""

from dataclasses import dataclass, field

from stages.errors import DataError

EXAMPLES = 20


class BadLineError(ValueError):
    """A line, or row, that is no document; the message says why."""


@dataclass(slots=True)
class BadLines:
    """The bad lines of one piece."""

    limit: int
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """`FILE:LINE: why`, the first of them."""

    def note(self, where: str, reason: str) -> None:
        """DataError beyond the limit."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{where}: {reason}")
        check_bad_lines(self.count, self.limit, self.examples)


def check_bad_lines(count: int, limit: int, examples: list[str]) -> None:
    """DataError if there are more bad lines than the limit; it shows the last example."""
    if count > limit:
        raise DataError(
            f"{examples[-1]}; with it {count} bad lines, the limit is {limit}; mend the input, name another field with "
            "--field, or allow more with --bad-limit"
        )
