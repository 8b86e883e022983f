"""The one exception of the planner: a question that cannot be answered as it is put."""


class PlannerError(Exception):
    """An input that a user can mend, said in one line; the doors end with exit code 2."""

    exit_code = 2
