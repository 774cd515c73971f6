"""`notices` of a sweep file, and of a user's own file: who is told of what, and when. Neither may hold a secret."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from sweep.catalog import read_mapping
from sweep.errors import SweepFileError
from sweep.notices.settings import EVENTS, NoticeSettings, Receiver
from sweep.spec.engines import AbsolutePath, CommandWord, VariableName
from sweep.spec.fields import Fields, Name

Address = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9.-]{1,190}$|^[a-z_][a-z0-9_-]{0,31}$")
]
EventKind = Literal["failed", "held", "refused", "disk", "stalled", "budget", "slipped", "milestone", "done"]
Hours = Annotated[float, Field(gt=0, le=10_000)]
Percent = Annotated[float, Field(gt=0, le=100)]
NEEDED = {"command": "command", "webhook": "url_variable or url_file", "mail": "to"}
"""By kind, the field that it cannot do without."""


class ReceiverFields(Fields):
    """One receiver."""

    name: Name = Field(description="a word that names the receiver; with another name it is told everything anew")
    kind: Literal["command", "webhook", "mail"] = Field(
        description="how it is told",
        json_schema_extra={
            "values": {
                "command": "a program gets the event as JSON on its stdin",
                "webhook": "JSON is posted to an address",
                "mail": "through the site's sendmail",
            }
        },
    )
    command: list[CommandWord] = Field(
        default_factory=list,
        max_length=100,
        description="the program and its arguments, without a shell",
        json_schema_extra={"needed": "command"},
    )
    url_variable: VariableName | None = Field(
        None,
        description="the environment variable that holds the webhook's address where `sweep tick` runs",
        json_schema_extra={"needed": "webhook, or url_file"},
    )
    url_file: AbsolutePath | None = Field(
        None,
        description="the absolute path of a file with the webhook's address, which nobody else may read",
        json_schema_extra={"needed": "webhook, or url_variable"},
    )
    form: Literal["json", "slack", "teams"] = Field(
        "json",
        description="the form of what is posted",
        json_schema_extra={
            "values": {"json": "as docs/json.md says", "slack": "for Slack", "teams": "for Microsoft Teams"}
        },
    )
    to: list[Address] = Field(
        default_factory=list, max_length=20, description="addresses of mail", json_schema_extra={"needed": "mail"}
    )
    sendmail: AbsolutePath = Field("/usr/sbin/sendmail", description="the absolute path of the site's sendmail")
    events: list[EventKind] = Field(
        default_factory=list,
        max_length=len(EVENTS),
        description="the kinds of events that it hears of",
        json_schema_extra={"default": "all"},
    )
    quiet: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")] | None = Field(
        None, description="hours in which it hears nothing, such as '22:00-07:00'; it is told afterwards"
    )

    @model_validator(mode="after")
    def check_kind(self) -> "ReceiverFields":
        """ValueError for a receiver that lacks what its kind needs."""
        given = {"command": self.command, "webhook": self.url_variable or self.url_file, "mail": self.to}
        if not given[self.kind]:
            raise ValueError(f"a receiver of kind {self.kind} needs {NEEDED[self.kind]}")
        if self.url_variable and self.url_file:
            raise ValueError("give url_variable or url_file, not both")
        return self

    def build_receiver(self) -> Receiver:
        """As the plan keeps it."""
        return Receiver(
            name=self.name,
            kind=self.kind,
            command=tuple(self.command),
            url_variable=self.url_variable or "",
            url_file=self.url_file or "",
            form=self.form,
            to=tuple(self.to),
            sendmail=self.sendmail,
            events=tuple(self.events),
            quiet=self.quiet or "",
        )


class NoticeFields(Fields):
    """`notices`."""

    receivers: list[ReceiverFields] = Field(default_factory=list, max_length=20, description="a list of receivers")
    stalled_hours: Hours = Field(
        6.0,
        description="hours without any change, and nothing running, after which that is told",
        json_schema_extra={"unit": "hours"},
    )
    slipped_hours: Hours = Field(
        24.0,
        description="hours by which the end moves before that is told",
        json_schema_extra={"unit": "hours"},
    )
    cells: list[Percent] = Field(
        default_factory=lambda: [25.0, 50.0, 75.0],
        max_length=20,
        description="shares of the cells that are told when they are done",
        json_schema_extra={"unit": "percent", "default": "[25, 50, 75]"},
    )

    @model_validator(mode="after")
    def check_names(self) -> "NoticeFields":
        """ValueError for two receivers of one name."""
        names = [each.name for each in self.receivers]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two receivers are called {doubled}")
        return self

    def build_settings(self) -> NoticeSettings:
        """As the plan keeps them."""
        return NoticeSettings(
            receivers=tuple(each.build_receiver() for each in self.receivers),
            stalled_hours=self.stalled_hours,
            slipped_hours=self.slipped_hours,
            cells=tuple(self.cells),
        )


def read_notice_file(path: Path) -> NoticeFields:
    """A user's own file: the same fields at its top. Raises SweepFileError with the first thing that is wrong."""
    content = read_mapping(path)
    try:
        return NoticeFields.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SweepFileError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None
