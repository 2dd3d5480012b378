"""One row of the table of settings, and how a field of a configuration struct becomes one.

A field is annotated `Annotated[type, describe(subject, kind, text, …)]`; `tabulate` collects the rows of a struct. The
names of flag and variable follow from the field's name, so that they cannot drift apart.
"""

from collections.abc import Mapping
from typing import get_type_hints

import msgspec

from fastproxy.config import units

VARIABLE_PREFIX = "FASTPROXY_"
SUBJECTS = (
    "Backends",
    "Stdio servers",
    "Listening",
    "Sessions",
    "Timeouts and limits",
    "Security",
    "Logging",
    "Lifecycle",
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str  # in a file, and of the field
    subject: str
    kind: units.Kind
    description: str
    default: object
    default_text: str | None  # for --help, where the default is not simply the field's
    repeatable: bool
    restart_needed: bool  # False: a reload may change it while the process runs
    has_flag: bool
    has_variable: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return VARIABLE_PREFIX + self.name.upper()

    def show(self, value: object) -> object:
        """A value of this setting as a file would hold it, a secret masked; None stays where it means "not set"."""
        if self.repeatable:
            assert isinstance(value, tuple)
            return [self.kind.show(one) for one in value]
        return None if value is None and self.default is None else self.kind.show(value)


def describe(
    subject: str,
    kind: units.Kind,
    description: str,
    *,
    restart: bool = False,
    default: str | None = None,
    repeatable: bool = False,
    flag: bool = True,
    variable: bool = True,
) -> msgspec.Meta:
    """What stands beside a field's type. `default` replaces the default's own text in --help."""
    assert subject in SUBJECTS
    row = {
        "subject": subject,
        "kind": kind,
        "default_text": default,
        "repeatable": repeatable,
        "restart_needed": restart,
        "has_flag": flag,
        "has_variable": variable,
    }
    return msgspec.Meta(description=description, extra=row)


def tabulate(struct: type[msgspec.Struct]) -> Mapping[str, Setting]:
    """The rows of a struct whose every field is described."""
    hints = get_type_hints(struct, include_extras=True)
    rows = {}
    for field in msgspec.structs.fields(struct):
        (meta,) = (entry for entry in hints[field.name].__metadata__ if isinstance(entry, msgspec.Meta))
        assert meta.extra is not None and meta.description is not None
        rows[field.name] = Setting(name=field.name, description=meta.description, default=field.default, **meta.extra)
    return rows
