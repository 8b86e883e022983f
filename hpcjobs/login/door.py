"""What every command's door shares: errors become one line and an exit code."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from hpcjobs.login.console import silence_stdout
from hpcjobs.run.errors import ConfigError, HpcjobsError, InputError
from planner.errors import PlannerError

EXIT_INTERRUPTED = 130


def run_door(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake is one line on standard error, never a traceback.

    Everything that the command writes is private: the umask is 077.
    """
    os.umask(0o077)
    _mend_streams()
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except (HpcjobsError, PlannerError) as error:
        return _say(error, error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return 0
    except OSError as error:
        if error.filename is None:
            silence_stdout()  # what is left in it would fail again at the exit
        return _say(_as_input_error(error), InputError.exit_code)
    return code


def _as_input_error(error: OSError) -> Exception:
    if error.filename is None:
        why = error.strerror or type(error).__name__
        return InputError(f"cannot write the output: {why}; look at where it goes")
    path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return InputError(f"cannot use {path}: {error.strerror}; check the path and your rights to it")


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).splitlines())}\n")
    return code


def _mend_streams() -> None:
    """Escapes what the terminal's encoding lacks; a closed stream becomes the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help shows what there is")


def add_overrides(parser: argparse.ArgumentParser, choices: str) -> None:
    """The words of every command that composes an experiment; ``choices`` names those that ship."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help=f"Hydra overrides; experiments: {choices}",
    )
    parser.add_argument(
        "--config-dir",
        "-cd",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory with configuration groups of your own; may be given several times",
    )


def parser(program: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser in the house's style."""
    return _Parser(
        prog=f"python -m hpcjobs.{program}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
