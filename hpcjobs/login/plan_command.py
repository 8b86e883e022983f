"""``python -m planner``: what an experiment needs, takes and costs, before anything runs."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.login import door
from hpcjobs.login.compose import Composed, compose_free, group_choices
from hpcjobs.login.console import make_console
from hpcjobs.login.override_word import override_word
from hpcjobs.login.secrets import refuse_secrets
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.schema import did_you_mean
from planner.output_file import check_outputs
from planner.plan import Choice, Plan
from planner.plan_file import encode_plan, write_plan
from planner.report.write import SUFFIXES

EXIT_NOTHING_FITS = 1
COMMANDS = ("estimate", "approve", "calibrate", "verify")
"""What ``python -m planner`` can do besides, each in a module of its own."""
_EXAMPLES = """\
examples:
  python -m planner +experiment=mgm_lora
  python -m planner +experiment=mgm_lora cluster.gpu_type=a100-80gb planner.deadline_hours=24
  python -m planner +experiment=mgm_lora report=report.html plan=plan.json
  python -m planner +experiment=mgm_lora planner.keep_layout=true --json

words of its own: report=FILE writes a page (.html, .md or .json), plan=FILE the plan itself

exit codes: 0 a plan, 1 nothing that was asked for is possible (the nearest plan is named),
2 wrong configuration, 3 the disk or a file fails
"""


def plan(argv: Sequence[str]) -> int:
    """Plans one experiment and prints the plan; returns the exit code.

    Raises:
        HpcjobsError: everything that a user can mend.
        PlannerError: the same, from the planner.
    """
    words = _parse(argv)
    refuse_secrets("the command line", "\n".join(words.overrides), os.environ)
    reports = _own_words(words.overrides, "report")
    plans = _own_words(words.overrides, "plan")
    _check_paths(reports)
    check_outputs([*plans, *reports])
    overrides = [word for word in words.overrides if not _is_own(word)]
    composed = compose_free(overrides, words.config_dir, Path.cwd())
    made = plan_of(composed)
    for path in plans:
        write_plan(made, path)
    if reports:
        from planner.report.write import write_report

        for path in reports:
            write_report(made, path)
    if words.json:
        sys.stdout.write(encode_plan(made).decode())
    else:
        _show(made, [*plans, *reports])
        _show_submission(made, composed, overrides, words.config_dir)
    return 0 if made.chosen is not None else EXIT_NOTHING_FITS


def plan_of(composed: Composed) -> Plan:
    """Searches for an experiment whose layout was composed; typed words keep their values.

    Raises:
        HpcjobsError: the experiment cannot be described to the planner.
        PlannerError: the question cannot be answered as it is put.
    """
    from hpcjobs.login.plan_question import answer, question_of

    experiment = composed.experiment
    question = question_of(experiment, composed.wanted, composed.given)
    return answer(question, experiment, composed.given)


def _show(made: Plan, written: Sequence[Path]) -> None:
    from planner.report.terminal import show_plan

    console = make_console()
    show_plan(console, made)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _show_submission(
    made: Plan, composed: Composed, overrides: Sequence[str], config_dirs: Sequence[Path]
) -> None:
    if made.chosen is None:
        return
    words = submission_words(made.chosen, composed, overrides, config_dirs)
    line = f"submit it with: {shlex.join(words)}"
    make_console().print(line, soft_wrap=True, markup=False)


def submission_words(
    chosen: Choice,
    composed: Composed,
    overrides: Sequence[str],
    config_dirs: Sequence[Path] = (),
) -> list[str]:
    """The command that submits a choice; where nobody has named a card, it names the choice's."""
    experiment = composed.experiment
    typed = [word for word in overrides if not word.startswith("parallel=")]
    if len(typed) < len(overrides) and "parallel.zero_stage" in composed.given:
        typed.append(f"parallel.zero_stage={chosen.sharding.removeprefix('zero')}")
    is_named = experiment.planner.cards or experiment.cluster.gpu_type
    # Slurm's names of cards have no spaces.
    name = chosen.gpu.replace(" ", "-")
    card = [] if is_named else [override_word("cluster.gpu_type", name)]
    # A layout that stays as it is was not left to the planner.
    auto = [] if composed.keeps_layout else ["parallel=auto"]
    places = [word for path in config_dirs for word in ("--config-dir", str(path))]
    return ["python", "-m", "hpcjobs.submit", *places, *typed, *card, *auto]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    choices = ", ".join(group_choices("experiment"))
    parser = door.parser("planner", "Plan an experiment: memory, time and cost.", _EXAMPLES)
    parser.prog = "python -m planner"
    door.add_overrides(parser, choices)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    words = parser.parse_intermixed_args(argv)
    for word in words.overrides:
        if "=" not in word:
            raise ConfigError(f"there is no command '{word}'{did_you_mean(word, COMMANDS)}")
    if not [word for word in words.overrides if not _is_own(word)]:
        raise ConfigError(
            f"no experiment is named: write +experiment=NAME, one of {choices}; or one of the "
            f"commands {', '.join(COMMANDS)}"
        )
    return words


def _is_own(word: str) -> bool:
    """Whether a word is for this command and not for Hydra."""
    return word.startswith(("report=", "plan="))


def _own_words(words: Sequence[str], name: str) -> list[Path]:
    values = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    for value in values:
        if not value:
            raise ConfigError(f"{name} is empty: write {name}=FILE")
    return [Path(value).expanduser() for value in values]


def _check_paths(reports: Sequence[Path]) -> None:
    for path in reports:
        if path.suffix not in SUFFIXES:
            raise ConfigError(
                f"report={path} has none of the endings {', '.join(SUFFIXES)}: write "
                f"report=report.html"
            )
