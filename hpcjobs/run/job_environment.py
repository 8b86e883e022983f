"""Which variables a job starts with: of the submitting shell, or of the job that it follows.

Slurm stores the environment of a submission, and ``SBATCH_*`` variables override the script:
so only what a job needs goes along. A job that submits its successor would hand it its own
``SLURM_*`` too, such as a restart count. ``--export=NIL`` would do it as well, but Slurm 22.05
takes it for the name of a variable, and every value but ALL makes the node run a login shell
first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
