"""Which Jinja templates a task file may hold: fields of a row, compared, cut, joined. lm-eval renders them unsandboxed.

Nothing that could reach Python's objects is allowed (names that begin with an underscore, calls but for METHODS), and
nothing that could take long or fill the memory (loops, products, powers, replacements).
"""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

PLAIN = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Concat, nodes.Add),
    *(nodes.List, nodes.Compare, nodes.Operand, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not),
)
FILTERS = frozenset(("trim", "lower", "upper", "capitalize", "join", "length", "first", "last"))
METHODS = frozenset(
    ("index", "strip", "lstrip", "rstrip", "lower", "upper", "capitalize", "split", "startswith", "endswith")
)
"""Of texts and lists: each gives back no more than it was given."""


def check_template(text: str) -> None:
    """ValueError for a template that does more than put fields together."""
    try:
        tree = Environment().parse(text)  # noqa: S701  # parsed, never rendered
    except TemplateSyntaxError as error:
        raise ValueError(f"template {text[:60]!r}: {error.message}") from error
    for node in (tree, *tree.find_all(nodes.Node)):
        if not _is_plain(node):
            raise ValueError(f"template {text[:60]!r}: {type(node).__name__} is not allowed: fields, +, ~, trim are")


def _is_plain(node: nodes.Node) -> bool:
    check = RULES.get(type(node))
    return check(node) if check is not None else isinstance(node, PLAIN)


def _is_known_call(node: Any) -> bool:
    plain = isinstance(node.node, nodes.Getattr) and node.node.attr in METHODS
    return plain and not (node.kwargs or node.dyn_args or node.dyn_kwargs)


def _is_field(node: Any) -> bool:
    name = isinstance(node.arg, nodes.Const) and not str(node.arg.value).startswith("_")
    return name or _is_number(node.arg) or isinstance(node.arg, nodes.Slice)


def _is_number(node: nodes.Node | None) -> bool:
    node = node.node if isinstance(node, nodes.Neg) else node
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


RULES: dict[type[nodes.Node], Callable[[Any], bool]] = {
    nodes.Filter: lambda node: node.name in FILTERS,
    nodes.Getattr: lambda node: not node.attr.startswith("_"),
    nodes.Getitem: _is_field,
    nodes.Slice: lambda node: all(part is None or _is_number(part) for part in (node.start, node.stop, node.step)),
    nodes.Neg: _is_number,
    nodes.Call: _is_known_call,
}
"""What is allowed of the nodes that are not PLAIN."""
