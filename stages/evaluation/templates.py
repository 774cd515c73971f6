"""Which Jinja templates a task file may hold: fields of a row, joined and trimmed. lm-eval renders them unsandboxed."""

from jinja2 import Environment, TemplateSyntaxError, nodes

PLAIN = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Concat, nodes.Add)
FILTERS = frozenset(("trim", "lower", "upper", "capitalize", "join", "length"))


def check_template(text: str) -> None:
    """ValueError for a template that does more than put fields together."""
    try:
        tree = Environment().parse(text)  # noqa: S701  # parsed, never rendered
    except TemplateSyntaxError as error:
        raise ValueError(f"template {text[:60]!r}: {error.message}") from error
    for node in (tree, *tree.find_all(nodes.Node)):
        if not _is_plain(node):
            raise ValueError(f"template {text[:60]!r}: {type(node).__name__} is not allowed; use fields, +, ~ and trim")


def _is_plain(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        return node.name in FILTERS
    if isinstance(node, nodes.Getattr):
        return not node.attr.startswith("_")
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and not str(node.arg.value).startswith("_")
    return isinstance(node, PLAIN)
