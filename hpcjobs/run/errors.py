"""The one exception root, and the exit code that each kind of mistake ends with."""


class HpcjobsError(Exception):
    """A failure that a user can act on: one line that says what, where and what to do.

    The doors of the package print ``error: <message>`` and leave with ``exit_code``;
    a traceback means a defect of hpcjobs itself.
    """

    exit_code = 1


class ConfigError(HpcjobsError):
    """The configuration is wrong: an unknown key, a wrong type, an impossible combination."""

    exit_code = 2


class InputError(HpcjobsError):
    """Something that the configuration names is missing or broken: data, model, disk."""

    exit_code = 3


class SchedulerError(HpcjobsError):
    """Slurm is not there, or refused."""

    exit_code = 4


class RunHeldError(HpcjobsError):
    """Another live job holds the run directory."""

    exit_code = 5


class TrainingFailedError(HpcjobsError):
    """A run that was waited for ended without finishing."""

    exit_code = 6
