"""POPE's reading of an answer as yes or no, and what it reports of a set of them."""

from collections.abc import Sequence


def said_yes(answer: str) -> bool:
    """The official rule: in the first sentence, without commas, none of the words `No`, `not`, `no`."""
    words = answer.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def yes_no_accuracy(answer: str, references: Sequence[str]) -> float:
    """1 if yes or no is what the first reference says."""
    return float(said_yes(answer) == (references[0] != "no"))


def yes_no_metrics(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """accuracy, precision, recall and F1 of `yes`, and the share of answers that say it; 0 where nothing is divided."""
    said = [said_yes(answer) for answer in answers]
    true = [label != "no" for label in labels]
    hits = sum(given and wanted for given, wanted in zip(said, true, strict=True))
    precision, recall = share(hits, sum(said)), share(hits, sum(true))
    return {
        "accuracy": share(sum(given == wanted for given, wanted in zip(said, true, strict=True)), len(said)),
        "precision": precision,
        "recall": recall,
        "f1": share(2 * precision * recall, precision + recall),
        "yes_ratio": share(sum(said), len(said)),
    }


def share(part: float, whole: float) -> float:
    """`part` / `whole`; 0 of nothing."""
    return part / whole if whole else 0.0
