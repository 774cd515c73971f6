"""What installed packages add: engines, families of tasks and trackers, registered under Python's entry points.

A package names them in its pyproject.toml ([project.entry-points."sweep.engines"] and so on). Nothing of a package is
imported before its name is used. Torch-free, as the planner asks too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from stages.errors import ConfigError

ENGINES = "sweep.engines"
TASKS = "sweep.tasks"
TRACKERS = "sweep.trackers"

NOUNS = {ENGINES: "engine", TASKS: "family of tasks", TRACKERS: "tracker"}


class PluginError(ConfigError):
    """A plug-in is missing, there twice, broken, or of another version than the plan's. Names the package."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A name that an installed package registers."""

    group: str
    name: str
    package: str
    release: str
    entry: EntryPoint

    def load(self) -> Any:
        """What the entry point names. PluginError if that cannot be imported."""
        try:
            return self.entry.load()
        except Exception as error:
            raise PluginError(
                f"{NOUNS[self.group]} {self.name}: package {self.package} {self.release} is broken: {self.entry.value} "
                f"cannot be loaded ({type(error).__name__}: {error}); install a release of it that works, or remove it"
            ) from error

    def build_type_error(self, found: object, wanted: str) -> PluginError:
        """For an entry point that names something else than it should."""
        return PluginError(
            f"{NOUNS[self.group]} {self.name}: package {self.package} {self.release} is broken: {self.entry.value} is "
            f"{type(found).__name__} and not {wanted}; tell its authors, or install another release of it"
        )


def list_plugins(group: str) -> list[Plugin]:
    """All that are installed, sorted."""
    return sorted(_iter_plugins(group), key=lambda plugin: (plugin.name, plugin.package))


def _iter_plugins(group: str) -> Iterator[Plugin]:
    for entry in entry_points(group=group):
        package, release = (entry.dist.name, entry.dist.version) if entry.dist is not None else ("unknown", "")
        yield Plugin(group, entry.name, package, release, entry)


def has_plugin(group: str, name: str) -> bool:
    """Whether any package registers the name."""
    return any(plugin.name == name for plugin in _iter_plugins(group))


def find_plugin(group: str, name: str, built_in: Sequence[str]) -> Plugin:
    """The plug-in of that name. PluginError if no package registers it, or several do.

    `built_in`: names that need no plug-in, for the message.
    """
    installed = list_plugins(group)
    found = [plugin for plugin in installed if plugin.name == name]
    if len(found) == 1:
        return found[0]
    noun = NOUNS[group]
    if found:
        packages = " and ".join(f"{plugin.package} {plugin.release}" for plugin in found)
        raise PluginError(f"{noun} {name!r} is there twice: in {packages}; uninstall all of them but one")
    known = [*built_in, *(f"{plugin.name} (of package {plugin.package})" for plugin in installed)]
    raise PluginError(
        f"{noun} {name!r} is unknown: known are {', '.join(known)}; to have another, install the package that "
        f"registers it under {group} into this Python"
    )


# Why: docs/decisions.md, D204
def render_label(plugin: Plugin, version: int) -> str:
    """What keys know a plug-in by: its package, and the version of its numbers."""
    return f"{plugin.package}:{version}"


def check_label(plugin: Plugin, version: int, planned: str) -> None:
    """PluginError where the plan's numbers are those of another package or of another version."""
    installed = render_label(plugin, version)
    if installed == planned:
        return
    package, _, number = planned.rpartition(":")
    raise PluginError(
        f"{NOUNS[plugin.group]} {plugin.name}: it was planned with version {number} of the numbers of package "
        f"{package}, and installed is version {version} of {plugin.package} {plugin.release}; install the release that "
        "it was planned with, or plan again (`sweep plan FILE`)"
    )
