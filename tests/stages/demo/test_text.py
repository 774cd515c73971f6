"""What of a docstring becomes training text."""

from stages.demo.text import clean_paragraphs

DOCSTRING = """Return the *common* elements of ``first`` and :class:`~pkg.Second`, in their own order.

    A paragraph that is indented is a paragraph too, and
    its lines are joined.

    Parameters
    ----------
    x : int
        The number of things that are looked at before it gives up.

    * An item of a list that is long enough to be kept as prose.
    * short item

    >>> intersect(a, b)
    [1, 2]

    Code such as value = call(x) that has an equals sign is no prose at all here.
    """


def test_sentences_are_kept_without_their_markup_and_code_is_not() -> None:
    assert list(clean_paragraphs(DOCSTRING)) == [
        "Return the common elements of first and Second, in their own order.",
        "A paragraph that is indented is a paragraph too, and its lines are joined.",
        "The number of things that are looked at before it gives up.",
        "An item of a list that is long enough to be kept as prose.",
    ]


def test_nothing_comes_of_text_without_sentences() -> None:
    assert list(clean_paragraphs("")) == []
    assert list(clean_paragraphs("foo(bar, baz) -> int\n\n    ::\n\n        x = 1")) == []
