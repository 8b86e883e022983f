"""``python -m hpcjobs.prefetch`` against a server on this machine that answers as the Hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hpcjobs.login.prefetch_command import ORIGIN
from hpcjobs.run.files import read_json

COMMIT = "a" * 40
NAME = "owner/model-2b"
FILES = {
    "model-00001-of-00002.safetensors": b"first" * 4000,
    "model-00002-of-00002.safetensors": b"second" * 4000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "pytorch_model.bin": b"a pickle",
    "training_args.bin": b"a pickle",
    "modeling.py": b"import os",
}
WANTED = {name for name in FILES if name.endswith((".safetensors", ".json"))}
REFUSALS = {
    "owner/absent": (404, "RepoNotFound"),
    "owner/gated": (403, "GatedRepo"),
    "owner/broken": (500, ""),
}


class Hub(BaseHTTPRequestHandler):
    """The few answers that a download asks for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        path = urlsplit(self.path).path
        for name, (code, why) in REFUSALS.items():
            if name in path:
                return self.say(code, b"{}", {"X-Error-Code": why})
        files = {"only.bin": b"pickle"} if "owner/pickles" in path else FILES
        if "/revision/" in path and not path.endswith(("/main", COMMIT, "/v1")):
            return self.say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": sha(data)}
                for name, data in files.items()
            ]
            return self.say(200, json.dumps(entries).encode())
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            info = {"id": NAME, "sha": COMMIT, "siblings": siblings}
            return self.say(200, json.dumps(info).encode())
        data = files[path.rsplit("/", 1)[1]]
        return self.say(200, data, {"ETag": f'"{sha(data)}"', "X-Repo-Commit": COMMIT})

    def say(self, code, body, headers=None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


def sha(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def prefetch(hub, tmp_path):
    def run(*words, **environment):
        own = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hf home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "HOME": str(tmp_path),
        }
        # Other tests of the suite are offline and say so here.
        here = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-m", "hpcjobs.prefetch", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**here, **own, **environment},
        )

    return run


def test_weights_configuration_and_tokenizer_are_fetched_and_no_pickle(prefetch, hub, tmp_path):
    done = prefetch(NAME, HF_TOKEN="hf_planted_secret")
    assert done.returncode == 0, done.stderr
    place = tmp_path / "hf home" / "hpcjobs" / NAME
    assert {path.name for path in place.glob("*") if path.is_file()} == WANTED | {ORIGIN}
    assert all((place / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any((place / name).is_symlink() for name in WANTED)
    assert read_json(place / ORIGIN)["commit"] == COMMIT
    assert not any(path.endswith((".bin", ".py")) for _, path, _ in hub.seen)

    assert ("Bearer hf_planted_secret",) in {seen[2:] for seen in hub.seen}
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hf_planted_secret" not in kept + done.stdout.encode() + done.stderr.encode()


def test_the_override_that_is_printed_is_one_that_composes(prefetch, tmp_path):
    from hpcjobs.login.compose import compose_experiment

    done = prefetch(NAME, "--to", "für 'uns', x")
    word = done.stdout.splitlines()[-1].strip()
    _, experiment = compose_experiment(["+experiment=mgm_lora_demo", word])
    assert Path(experiment.model.path) == tmp_path / "für 'uns', x"


def test_what_is_there_is_not_fetched_again(prefetch, hub):
    assert prefetch(NAME, "--revision", "v1").returncode == 0
    hub.seen.clear()
    assert prefetch(NAME, "--revision", "v1").returncode == 0
    assert [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["owner/absent"], 3, "knows no model owner/absent"),
        (["owner/gated"], 3, "is given out on request"),
        (["owner/broken"], 3, "try again later"),
        (["owner/pickles"], 3, "holds no safetensors"),
        ([NAME, "--revision", "gone"], 3, "has no revision 'gone'"),
        (["../../etc"], 2, "is no name on the Hub"),
        (["model"], 2, "write OWNER/MODEL"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(prefetch, tmp_path, words, code, message):
    done = prefetch(*words)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_without_a_network_the_command_says_where_it_belongs(prefetch, environment):
    done = prefetch(NAME, **environment)
    assert done.returncode == 3
    assert "is this the login node" in done.stderr
    assert "Traceback" not in done.stderr
