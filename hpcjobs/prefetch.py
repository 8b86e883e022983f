"""Door of ``python -m hpcjobs.prefetch``."""

import sys

from hpcjobs.login.door import run_door
from hpcjobs.login.prefetch_command import prefetch

if __name__ == "__main__":
    sys.exit(run_door(prefetch))
