"""Door of ``python -m hpcjobs.follow``."""

import sys

from hpcjobs.login.door import run_door
from hpcjobs.login.follow_command import follow_command

if __name__ == "__main__":
    sys.exit(run_door(follow_command))
