"""Which of the submitting shell's variables a job starts with.

Slurm stores the environment of a submission, and ``SBATCH_*`` variables override the script:
so only what a job needs goes along. ``--export=NIL`` would do it too, but Slurm 22.05 takes it
for the name of a variable, and every value but ALL makes the node run a login shell first.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# The base system's words, the module system's (for ``cluster.setup``), and where Slurm lies.
_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|SLURM_CONF|MUNGE_SOCKET"
    r"|MODULEPATH\w*|MODULESHOME|LMOD_\w+|BASH_FUNC_(?:module|ml)(?:%%|\(\))|BASH_ENV"
)


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job keeps.

    >>> job_environment({"PATH": "/bin", "HF_TOKEN": "x", "SBATCH_PARTITION": "big"})
    {'PATH': '/bin'}
    """
    return {name: value for name, value in environment.items() if _KEPT.fullmatch(name)}


@contextmanager
def only_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Replaces this process's environment while ``sbatch`` is called."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
