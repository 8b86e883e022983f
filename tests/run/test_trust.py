"""Nobody else can put a pickle where a run will read one; the operating system is the judge."""

import grp
import os
import pwd
import tempfile
from pathlib import Path

import pytest
from users import as_user

from hpcjobs.run.errors import InputError
from hpcjobs.run.trust import refuse_foreign_files, refuse_untrusted

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="makes directories of other users")

NOBODY = pwd.getpwnam("nobody")
GAMES = grp.getgrnam("games")


@pytest.fixture
def place():
    """A directory that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        path = Path(name) / "lab"
        path.mkdir()
        yield path


@pytest.mark.parametrize(
    ("owner", "gid", "mode", "said"),
    [
        (0, 0, 0o755, None),
        (NOBODY.pw_uid, 0, 0o755, None),
        (pwd.getpwnam("games").pw_uid, 0, 0o755, r"belongs to games.*cluster.trusted=\[games\]"),
        (0, GAMES.gr_gid, 0o775, r"written by the group games.*cluster.trusted=\['@games'\]"),
        (0, GAMES.gr_gid, 0o1777, None),
        (0, 0, 0o757, "written by everybody"),
    ],
)
def test_a_directory_above_the_run_that_others_can_change_is_refused(place, owner, gid, mode, said):
    os.chown(place, owner, gid)
    place.chmod(mode)
    run = place / "runs" / "mine"
    if said is None:
        as_user("nobody", refuse_untrusted, run)
        return
    with pytest.raises(InputError, match=said):
        as_user("nobody", refuse_untrusted, run)


@pytest.mark.parametrize(("uid", "trusted"), [("games", ["games"]), (None, ["@games"])])
def test_who_is_trusted_by_name_may_own_or_write_the_place_of_the_runs(place, uid, trusted):
    os.chown(place, pwd.getpwnam(uid).pw_uid if uid else 0, GAMES.gr_gid)
    place.chmod(0o755 if uid else 0o775)
    as_user("nobody", refuse_untrusted, place / "run", trusted)


@pytest.mark.parametrize(
    ("owner", "mode", "said"),
    [("nobody", 0o600, None), ("games", 0o644, "belongs to games"), ("nobody", 0o660, "go-w")],
)
def test_a_file_of_another_or_that_others_can_change_is_not_read(place, owner, mode, said):
    path = place / "shard.pt"
    path.write_bytes(b"")
    os.chown(path, pwd.getpwnam(owner).pw_uid, 0)
    path.chmod(mode)
    if said is None:
        as_user("nobody", refuse_foreign_files, [path])
        return
    with pytest.raises(InputError, match=said):
        as_user("nobody", refuse_foreign_files, [path])


def test_a_link_is_not_followed(place):
    (place / "real").touch()
    (place / "link").symlink_to(place / "real")
    with pytest.raises(InputError, match="no regular file"):
        refuse_foreign_files([place / "link"])


def test_a_link_into_a_place_that_others_can_change_is_refused(place):
    (place / "open").mkdir()
    (place / "open").chmod(0o757)
    (place / "runs").symlink_to(place / "open")
    with pytest.raises(InputError, match="written by everybody"):
        as_user("nobody", refuse_untrusted, place / "runs" / "mine")
