"""Where the commands print, also when nobody reads any more."""

import os
import sys

from rich.console import Console


class _SteadyConsole(Console):
    """Falls silent when its reader has gone: whether output is read decides about no run."""

    def on_broken_pipe(self) -> None:
        """Sends what follows to the null device, where rich would end the program."""
        self.quiet = True
        silence_stdout()


def make_console() -> Console:
    """A console that prints paths and commands as they are."""
    return _SteadyConsole(highlight=False, emoji=False)


def silence_stdout() -> None:
    """Points standard output at the null device, so that nothing complains at the exit either."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
