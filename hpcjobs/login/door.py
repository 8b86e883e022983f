"""What every command's door shares: errors become one line and an exit code."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from hpcjobs.run.errors import HpcjobsError

EXIT_INTERRUPTED = 130


def run_door(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake is one line on standard error, never a traceback.

    Everything that the command writes is private: the umask is 077.
    """
    os.umask(0o077)
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except HpcjobsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def parser(program: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser in the house's style."""
    return argparse.ArgumentParser(
        prog=f"python -m hpcjobs.{program}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
