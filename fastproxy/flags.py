"""The flags of a command, made from the table of settings, and a --help that groups them by subject.

click only sorts words here: values stay text, so that `config.load` can name every wrong one in one go. What stands
after `--` never meets click: it belongs to the command that is to be started.
"""

import difflib
from collections.abc import Callable, Mapping

import click

from fastproxy.config import setting, units

COMMAND_KEY = "fastproxy.command"  # in the context's meta: the words after --


def _make_option(row: setting.Setting) -> click.Option:
    if not row.kind.metavar:
        return click.Option([f"{row.flag}/--no-{row.flag[2:]}"], default=None, help=row.description)
    return click.Option([row.flag], metavar=row.kind.metavar, multiple=row.repeatable, help=row.description)


def _describe(row: setting.Setting) -> str:
    if row.default_text is not None:
        default = row.default_text
    elif isinstance(row.default, bool):
        default = "on" if row.default else "off"
    elif row.default is None or row.default == ():
        default = ""
    else:
        default = str(row.show(row.default))
    notes = [f"default: {default}"] if default else []
    notes += ["repeatable"] if row.repeatable else []
    return f"{row.description}  [{'; '.join([*notes, row.variable])}]"


class Group(click.Group):
    """A group of commands that says which one was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word, known = args[0], self.list_commands(ctx)
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            close = difflib.get_close_matches(word, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f", expected {', '.join(known)}"
            raise click.UsageError(f"no such command: {units.quote(word)}{hint}", ctx)
        return super().resolve_command(ctx, args)


class SettingsCommand(click.Command):
    """A command whose flags are settings. `act` gets those that were really given, by their settings' names."""

    def __init__(
        self,
        name: str,
        settings: Mapping[str, setting.Setting],
        act: Callable[[dict[str, object]], int],
        *,
        summary: str,
        help: str,
        epilog: str,
        takes_command: bool = False,
    ) -> None:
        self.settings = settings
        self.takes_command = takes_command
        self.act = act
        options: list[click.Parameter] = [_make_option(row) for row in settings.values() if row.has_flag]
        super().__init__(name, params=options, short_help=summary, help=help, epilog=epilog)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, separator, command = _split_command(args)
        if separator and not self.takes_command:
            raise click.UsageError("expected no command after --", ctx)
        if separator and not command:
            raise click.UsageError("expected a command after --", ctx)
        ctx.meta[COMMAND_KEY] = tuple(command)
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> int:
        given = {
            name: value
            for name, value in ctx.params.items()
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        }
        if ctx.meta[COMMAND_KEY]:
            given["command"] = ctx.meta[COMMAND_KEY]
        return self.act(given)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "[-- COMMAND ARG...]"] if self.takes_command else ["[OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for subject in setting.SUBJECTS:
            rows = [row for row in self.settings.values() if row.subject == subject and row.has_flag]
            if rows:
                with formatter.section(subject):
                    formatter.write_dl([(_write_flag(row), _describe(row)) for row in rows])
        hidden = [row for row in self.settings.values() if row.has_variable and not row.has_flag]
        with formatter.section("By environment or file only"):
            formatter.write_dl([(row.variable, row.description) for row in hidden])
        with formatter.section("Other options"):
            formatter.write_dl([("--help", "show this and exit")])


def _split_command(args: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in args:
        return args, False, []
    at = args.index("--")
    return args[:at], True, args[at + 1 :]


def _write_flag(row: setting.Setting) -> str:
    return f"{row.flag} {row.kind.metavar}" if row.kind.metavar else f"{row.flag} / --no-{row.flag[2:]}"
