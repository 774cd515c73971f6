"""All families by name. A new one is a file beside this one and a word in the list below, or comes from a package.

docs/add-a-task.md has both ways. Torch-free.
"""

from collections.abc import Mapping

from stages.evaluation.benchmarks import gqa, ocid_ref, pope, refcoco, textvqa, vizwiz, vqav2
from stages.evaluation.benchmarks.family import Family
from stages.plugins import TASKS, Plugin, check_label, find_plugin, render_label

MODULES = (vqav2, gqa, vizwiz, textvqa, refcoco, ocid_ref, pope)

FAMILIES: Mapping[str, Family] = {module.FAMILY.name: module.FAMILY for module in MODULES}


def find_family_plugin(name: str) -> tuple[Plugin, Family]:
    """The family that a package registers. PluginError if it is missing, twice there, or broken."""
    plugin = find_plugin(TASKS, name, tuple(FAMILIES))
    found = plugin.load()
    if not isinstance(found, Family):
        raise plugin.build_type_error(found, "a stages.evaluation.benchmarks.family.Family")
    return plugin, found


def find_family(name: str, planned: str = "") -> Family:
    """The family of that name, built in or of a package. PluginError if there is none.

    `planned`: what the plan says of its package (`Task.plugin`); PluginError if it is another one, or of other numbers.
    """
    if name in FAMILIES and not planned:
        return FAMILIES[name]
    plugin, found = find_family_plugin(name)
    if planned:
        check_label(plugin, found.version, planned)
    return found


def render_family_label(name: str) -> str:
    """What keys hold of a family besides the task's own files; empty for one that is built in. PluginError."""
    if name in FAMILIES:
        return ""
    plugin, found = find_family_plugin(name)
    return render_label(plugin, found.version)
