"""Door of ``python -m hpcjobs.submit``."""

import sys

from hpcjobs.login.door import run_door
from hpcjobs.login.submit import submit

if __name__ == "__main__":
    sys.exit(run_door(submit))
