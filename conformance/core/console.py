"""What all commands share: one-sentence errors, options that were renamed, packages that a command needs."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import click

from conformance.core.errors import InputError, code_of
from conformance.core.missing import missing
from conformance.core.option_names import FORMER_OPTIONS
from conformance.core.paths import INSTALLED
from conformance.core.suggest import unknown
from conformance.core.text import one_line

#: This project's packages: if a module of theirs is missing, that is a bug of the suite.
_OWN = ("conformance", "report", "tests")
_INTERRUPTED = 130


class CommandError(click.ClickException):
    """A command could not do its work; the message is one sentence."""

    def __init__(self, code: str, message: str, exit_code: int = 1) -> None:
        # Names and values in it may come from a record.
        super().__init__(one_line(message, max_chars=1000))
        self.code = code
        self.exit_code = exit_code  # type: ignore[misc]  # click sets it by instance too


class Command(click.Command):
    """A command whose expected errors are sentences, and which knows former names of its options.

    Args:
        needs: Packages without which it does nothing.
        error_code: The exit code where it could not do its work.
        checkout: Whether it changes files of the project, and so needs a checkout.
    """

    #: Errors whose message is a sentence already.
    errors: ClassVar[tuple[type[Exception], ...]] = (ValueError, OSError)
    #: Added to the message about an option that does not exist.
    option_hint: ClassVar[str] = ""

    def __init__(
        self,
        *args: Any,
        needs: Iterable[str] = (),
        error_code: int = 1,
        checkout: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.needs = tuple(needs)
        self.error_code = error_code
        self.checkout = checkout

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for what the command needs, then read the options, former names among them."""
        if not set(ctx.help_option_names).intersection(args):
            if self.checkout and INSTALLED:
                problem = (
                    f"{ctx.command_path} changes files of the project: run it in a checkout, not an installed copy"
                )
                raise CommandError("needs-checkout", problem, self.error_code)
            for package in self.needs:
                if importlib.util.find_spec(package) is None:
                    raise CommandError("missing-package", missing(ctx.command_path, package), self.error_code)
        known = {name for param in self.get_params(ctx) for name in param.opts}
        for former, name in former_options(args):
            if former not in known and name in known:
                print(f"{former} is now {name}", file=sys.stderr)
                args = [_renamed(argument, former, name) for argument in args]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            near = known.union(former for former, now in FORMER_OPTIONS.items() if now in known)
            message = unknown("option", name, near) if name.startswith("--") else f"No such option {name!r}."
            raise click.UsageError(f"{message}{self.option_hint}", ctx) from InputError("unknown-name", message)
        except ValueError as error:  # of a path that no file can have
            raise click.UsageError(str(error), ctx) from InputError("invalid-name", error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; expected errors become a `CommandError`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except self.errors as error:
            if isinstance(error, OSError):
                error = InputError.of_file(error.filename or ctx.command_path, error)
            raise CommandError(code_of(error), str(error), self.error_code) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", *_OWN):
                raise
            message = missing(ctx.command_path, package)
            raise CommandError("missing-package", message, self.error_code) from error


class Group(click.Group):
    """A group of commands, which are imported when they are needed.

    Args:
        lazy: By name, the function that makes the command.
        former: The new name of each command that was renamed.
    """

    command_class = Command

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, Callable[[], click.Command]] | None = None,
        former: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._lazy = lazy or {}
        self._former = former or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added, which is that in which people need them."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, if it is not there yet."""
        return self._lazy[cmd_name]() if cmd_name in self._lazy else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the suite's own message for a name that does not exist."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            message = unknown("command", name, self.list_commands(ctx))
            if name in self._former:
                message = f"No such command {name!r}: it is now {self._former[name]!r}"
            raise click.UsageError(message, ctx) from InputError("unknown-name", message)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **attributes: Any) -> Any:
        """Run one command, and end the process."""
        sys.exit(self.run(*args, **attributes))

    def run(self, args: Sequence[str] | None = None, prog_name: str | None = None, **attributes: Any) -> int:
        """Run one command; its exit code."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal that cannot show a character gets its code instead of a traceback.
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, **{**attributes, "standalone_mode": False})
            print(end="", flush=True)  # there may be no stdout
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.ClickException as error:
            code = code_of(error)
            print(f"error{f' [{code}]' if code else ''}: {error.format_message()}", file=sys.stderr)
            if isinstance(error, click.UsageError) and error.ctx is not None:
                print(f"try: {error.ctx.command_path} --help", file=sys.stderr)
            return error.exit_code
        except click.Abort:
            return _INTERRUPTED
        except BrokenPipeError:
            # The reader closed the pipe; flushing at exit must not fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except SystemExit as ended:  # click's own answer to a closed pipe
            return ended.code if isinstance(ended.code, int) else 1
        return code if isinstance(code, int) else 0


def imported(module: str, name: str) -> Callable[[], click.Command]:
    """A function that imports the command `name` of `module`."""

    def load() -> click.Command:
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    return load


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def former_options(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The options among `arguments` that were renamed, each with its new name."""
    for argument in arguments:
        if argument == "--":
            return
        former = argument.partition("=")[0]
        if former in FORMER_OPTIONS:
            yield former, FORMER_OPTIONS[former]


def _renamed(argument: str, former: str, name: str) -> str:
    head, equals, value = argument.partition("=")
    return f"{name}{equals}{value}" if head == former else argument
