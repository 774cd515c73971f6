"""`python -m stages.export`: the program behind `sweep export`. It reads one request as JSON from stdin.

Prints the folder once it is there. Exit code: 0 done, 1 not possible (a line on stderr says why), 130 or 143 stopped by
a signal, with nothing left behind.
"""

import signal
import sys

from pydantic import ValidationError

from stages.errors import StageError
from stages.export.request import ExportRequest
from stages.job_file import summarize_error
from stages.printable import print_error


def main() -> int:
    """Runs one export."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, raise_on_signal)
    try:
        request = ExportRequest.model_validate_json(sys.stdin.read())
    except ValidationError as error:
        print_error(f"the request is malformed: {summarize_error(error)}")
        return 1
    from stages.export.run import export_model  # torch comes with it

    try:
        print(export_model(request))
    except (StageError, OSError) as error:
        print_error(str(error))
        return 1
    return 0


def raise_on_signal(number: int, _frame: object) -> None:
    """Ends by an exception, so that what is unfinished is taken away."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
