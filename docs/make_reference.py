"""Prints docs/reference.md from the code: keys, files of a run, verdicts and exit codes.

    python docs/make_reference.py > docs/reference.md
    python docs/make_reference.py --check     exits 1 when docs/reference.md is stale

The meaning of a key is the string under its field, else the comment beside it in ``conf/``.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hpcjobs.login.assets import asset_dir
from hpcjobs.login.compose import Request, compose_experiment, group_choices
from hpcjobs.login.door import EXIT_INTERRUPTED
from hpcjobs.node import broker
from hpcjobs.run.cluster_config import OWN_OPTIONS
from hpcjobs.run.errors import HpcjobsError
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.layout import Attempt, RunDir
from hpcjobs.run.schema import plain
from hpcjobs.run.verdict import Verdict

PAGE = Path(__file__).with_name("reference.md")
GROUPS = (
    *("experiment", "model", "data", "method", "parallel", "train", "cluster", "container"),
    *("health", "watch", "planner", "budget"),
)
HEAD = """\
# Reference

Made from the code by `python docs/make_reference.py`; do not edit it by hand.
"""
KEYS = """\
## Configuration keys

`default` is what a group of your own may leave out. `shipped` is what
`python -m hpcjobs.submit` takes without any word, where that differs.
A key that is in no shipped group yet, such as an sbatch option, is written with a plus:
`+cluster.sbatch.exclude=n1`.
"""
_COMMENT = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*?)(?:\s+# *(?P<comment>.*))?$")
_STATUS = re.compile(r"``(\w+)``: (.+?)\.(?=\s|$)")
_WORDS: dict[object, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true/false",
    type(None): "null",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One configuration key with its dotted path."""

    path: str
    type_words: str
    default: str
    meaning: str


def main(words: Sequence[str]) -> int:
    """Prints the page, or compares it with the committed one."""
    page = render()
    if words != ["--check"]:
        sys.stdout.write(page)
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(f"{PAGE} is stale: python docs/make_reference.py > docs/reference.md\n")
    return 1


def render() -> str:
    """The whole page."""
    parts = [HEAD, KEYS, *_groups(), _own_options(), _run_files(), _verdicts()]
    return "\n".join([*parts, _command_exits(), _job_exits()])


def _groups() -> Iterator[str]:
    request, experiment = compose_experiment([], here=Path())
    shipped = _flat({**plain(request), **plain(experiment)})
    comments = _comments()
    choices = ", ".join(f"`{name}`" for name in group_choices("experiment"))
    yield f"Experiments (`+experiment=NAME`): {choices}.\n"
    rhythms = ", ".join(f"`{name}`" for name in group_choices("checkpoint"))
    yield f"When to save (`+checkpoint=NAME`): {rhythms}.\n"
    keys = [*_keys(Experiment, "", comments), *_keys(Request, "", comments)]
    plain_keys = [key for key in keys if "." not in key.path]
    yield _table("### Top level", plain_keys, shipped)
    for group in GROUPS[1:]:
        names = ", ".join(f"`{group}={name}`" for name in group_choices(group))
        members = [key for key in keys if key.path.startswith(f"{group}.")]
        yield _table(f"### {group}\n\nChoices: {names}.", members, shipped)


def _keys(cls: type, prefix: str, comments: dict[str, str]) -> Iterator[Key]:
    """The keys of a configuration class, nested ones in their place."""
    hints, meanings = typing.get_type_hints(cls), attribute_docstrings(cls)
    for field in dataclasses.fields(cls):
        path, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys(typing.cast("type", hint), f"{path}.", comments)
            continue
        meaning = meanings.get(field.name) or comments.get(path, "")
        yield Key(path, type_words(hint), _default(field), meaning)


def attribute_docstrings(cls: type) -> dict[str, str]:
    """The strings under the fields of a class, which Python itself throws away."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return _strings_under(body)


def _strings_under(body: Sequence[ast.stmt]) -> dict[str, str]:
    found = {}
    for field, below in itertools.pairwise(body):
        target: ast.expr | None = None
        if isinstance(field, ast.AnnAssign):
            target = field.target
        elif isinstance(field, ast.Assign):
            target = field.targets[0]
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant):
            found[target.id] = " ".join(str(text.value).split())
    return found


def _comments() -> dict[str, str]:
    """The first comment beside each key in the files of ``conf/``."""
    found: dict[str, str] = {}
    files = [("", asset_dir("conf") / "config.yaml")]
    for group in GROUPS[1:]:
        files += [(f"{group}.", path) for path in sorted((asset_dir("conf") / group).glob("*"))]
    for prefix, path in files:
        parents: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            match = _COMMENT.match(line)
            if match is None:
                continue
            del parents[len(match["indent"]) // 2 :]
            parents.append(match["key"])
            if match["comment"] and " | " not in match["comment"]:  # the type names the choices
                found.setdefault(prefix + ".".join(parents), match["comment"])
    return found


def type_words(hint: object) -> str:
    """Says a type in words.

    >>> type_words(int | None), type_words(tuple[str, ...]), type_words(Literal["a", "b"])
    ('integer or null', 'list of text', '`a`, `b`')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if origin is dict:
        return f"mapping of {type_words(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        names = ", ".join(f"`{field.name}`" for field in dataclasses.fields(hint))
        return f"mappings with {names}"
    return _WORDS.get(hint, str(hint))


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return _code(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _code(field.default_factory())
    return "**required**"


def _code(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _flat(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in raw.items():
        flat[prefix + name] = value
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
    return flat


def _table(title: str, keys: Sequence[Key], shipped: dict[str, Any]) -> str:
    rows = [("key", "type", "default", "shipped", "meaning")]
    for key in keys:
        taken = _code(shipped[key.path])
        rows.append(
            (
                f"`{key.path}`",
                key.type_words,
                key.default,
                "" if taken == key.default else taken,
                key.meaning,
            )
        )
    return f"{title}\n\n{_rows(rows)}"


def _rows(rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "|".join(_cell(cell) for cell in row) + "|" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|").replace("``", "`")
    return f" {escaped} " if escaped else " "


def _own_options() -> str:
    names = ", ".join(f"`{name}`" for name in sorted(OWN_OPTIONS))
    return (
        "### sbatch options that are refused in `cluster.sbatch`\n\n"
        f"hpcjobs writes these itself, or relies on them: {names}.\n"
    )


def _run_files() -> str:
    rows = [("path in the run directory", "what it holds")]
    run = RunDir(Path("RUN"))
    rows += [(_relative(getattr(run, name), run.path), text) for name, text in _documented(RunDir)]
    attempt: Any = run.attempt("N")  # type: ignore[arg-type]  # letters stand for numbers here
    for name, text in _documented(Attempt):
        value = getattr(attempt, name)
        path = value if isinstance(value, Path) else value("R" if "rank" in name else "K")
        rows.append((_relative(path, run.path), text))
    note = "N is the attempt, R the rank of a process, K the number of a node.\n"
    return f"## Files of a run\n\n{note}\n{_rows(rows)}"


def _documented(cls: type) -> Iterator[tuple[str, str]]:
    """Name and first docstring line of whatever gives a path, in the order of the source."""
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else member
        hints = inspect.get_annotations(function) if inspect.isfunction(function) else {}
        if hints.get("return") == "Path":
            yield name, _first_line(function)


def _relative(path: Path, base: Path) -> str:
    return f"`{path.relative_to(base)}`"


def _first_line(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _verdicts() -> str:
    rows = [("status", "meaning"), *((f"`{name}`", text) for name, text in _statuses().items())]
    return f"## Verdicts\n\n`attempts/N/verdict.json` holds one of these.\n\n{_rows(rows)}"


def _statuses() -> dict[str, str]:
    return dict(_STATUS.findall(" ".join((inspect.getdoc(Verdict) or "").split())))


def _command_exits() -> str:
    rows = [("code", "meaning"), ("0", "submitted, finished, or stopped with a checkpoint")]
    rows.append((str(HpcjobsError.exit_code), "a defect of hpcjobs itself, with a traceback"))
    rows += [(str(cls.exit_code), _first_line(cls)) for cls in HpcjobsError.__subclasses__()]
    interrupted = "interrupted: a run on this machine saves and stops, a Slurm job goes on"
    rows.append((str(EXIT_INTERRUPTED), interrupted))
    title = "## Exit codes of `hpcjobs.submit` and `hpcjobs.follow`"
    return f"{title}\n\n{_rows(rows)}"


def _job_exits() -> str:
    said = _strings_under(ast.parse(inspect.getsource(broker)).body)
    rows = [("code", "verdict", "meaning")]
    for name, code in vars(broker).items():
        status = name.removeprefix("EXIT_").lower()
        if name.startswith("EXIT_"):
            meaning = said.get(name) or _statuses()[status]
            rows.append((str(code), "" if name in said else f"`{status}`", meaning))
    note = "Where the broker itself refuses, the script ends with 2, 3 or 5 of the table above.\n"
    return f"## Exit codes of the batch script\n\n{_rows(rows)}\n{note}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
