"""Door of ``python -m hpcjobs.nodes``."""

import sys

from hpcjobs.login.door import run_door
from hpcjobs.login.nodes_command import nodes_command

if __name__ == "__main__":
    sys.exit(run_door(nodes_command))
