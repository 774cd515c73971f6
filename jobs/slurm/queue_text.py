"""squeue's lines: the format that is asked for, and their reader (squeue(1))."""

from jobs.slurm.row_text import NOTHING, SEPARATOR, is_whole, number, seconds, split_rows, value
from jobs.slurm.rows import Answer, QueueRow

FIELDS = ("%i", "%T", "%r", "%E", "%u", "%q", "%a", "%P", "%V", "%S", "%N", "%Q", "%e", "%j")
"""Id, state, reason, dependency, user, QOS, account, partition, submitted, started, nodes, priority, ends, name."""
FORMAT = SEPARATOR.join(FIELDS)


def read_queue(text: str) -> Answer[QueueRow]:
    """The rows of `squeue --array --noheader --format FORMAT`, in squeue's order. Text that breaks off is a problem."""
    if not is_whole(text):
        return Answer(problem="squeue's answer breaks off")
    times: dict[str, float] = {}
    rows = []
    for line in split_rows(text, len(FIELDS)):
        job, state, reason, dependency, user, qos, account, partition, submitted, started, *rest = line
        nodes, priority, ends, name = rest
        for moment in (submitted, started, ends):
            if moment not in times:
                times[moment] = seconds(moment)
        rows.append(
            QueueRow(
                job,
                name,
                user,
                state,
                value(reason),
                "" if dependency in NOTHING else dependency,
                qos,
                account,
                partition,
                times[submitted],
                times[started],
                nodes,
                number(priority),
                times[ends],
            )
        )
    return Answer(rows=tuple(rows))
