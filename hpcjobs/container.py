"""Door of ``python -m hpcjobs.container``."""

import sys

from hpcjobs.login.container_command import container
from hpcjobs.login.door import run_door

if __name__ == "__main__":
    sys.exit(run_door(container))
