"""What the submission makes of the container's settings: paths, digest, refusals."""

import os
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_words, write_tiny_data

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.container_mounts import container_mounts, merged
from hpcjobs.login.container_planned import digest_of, missing_image, planned_container
from hpcjobs.run.container_config import Container, parse_bind
from hpcjobs.run.container_plan import Mount, container_plan
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.files import sha256, write_json
from hpcjobs.run.image_record import ImageRecord, write_record
from hpcjobs.run.layout import RunDir


@pytest.fixture
def data(tmp_path):
    return write_tiny_data(tmp_path / "data")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "train.sif"
    path.write_bytes(b"an image")
    return path


def experiment_of(data, image, **changes):
    words = tiny_words(data, **{"container": "apptainer", "container.image": image, **changes})
    return compose_experiment(words)[1]


def targets(mounts):
    return {mount.target: mount for mount in mounts}


def test_everything_that_the_run_names_is_bound_under_its_real_path(data, image, tmp_path):
    run = RunDir(tmp_path / "runs" / "one")
    run.path.mkdir(parents=True)
    far = tmp_path / "far"
    (tmp_path / "disk").mkdir()
    far.symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    words = {"model.tokenizer": far / "tokenizer.json", "container.binds": "['/usr/share:/s:ro']"}
    found = targets(container_mounts(experiment_of(data, image, **words), run))
    assert found[str(run.path)] == Mount(str(run.path), str(run.path), False)
    assert found[str(data)].read_only
    real = str(tmp_path / "disk" / "tokenizer.json")
    assert found[f"{far}/tokenizer.json"].source == real
    assert found[real].source == real
    assert found["/s"] == Mount("/usr/share", "/s", True)
    assert str(data / "train.json") not in found


def test_the_links_of_a_hugging_face_snapshot_lead_somewhere(data, image, tmp_path):
    model, blobs = tmp_path / "hub/snapshots/abc", tmp_path / "hub/blobs"
    model.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("weights")
    (model / "model.safetensors").symlink_to("../../blobs/123")
    experiment = experiment_of(data, image)
    experiment = replace(experiment, model=replace(experiment.model, path=str(model)))
    found = targets(container_mounts(experiment, RunDir(tmp_path / "run")))
    assert found[str(blobs)] == Mount(str(blobs), str(blobs), True)


def test_data_that_the_run_makes_itself_can_be_written(image, tmp_path):
    words = ["+experiment=mgm_lora_demo", f"data.root={tmp_path}/demo", "container=apptainer",
             f"container.image={image}"]  # fmt: skip
    _, experiment = compose_experiment(words)
    assert not targets(container_mounts(experiment, RunDir(tmp_path / "run")))[
        f"{tmp_path}/demo"
    ].read_only


@pytest.mark.parametrize(
    ("mounts", "kept"),
    [
        ([("/d", "/d", False), ("/d/a", "/d/a", False)], ["/d"]),
        ([("/d", "/d", False), ("/d/a", "/d/a", True)], ["/d", "/d/a"]),
        ([("/d", "/d", True), ("/e", "/d/a", True)], ["/d", "/d/a"]),
        ([("/d", "/d", True), ("/dd", "/dd", True)], ["/d", "/dd"]),
        ([("/d", "/d", True), ("/d/a", "/d/a", False), ("/d/a/b", "/d/a/b", True)],
         ["/d", "/d/a", "/d/a/b"]),
    ],
)  # fmt: skip
def test_a_mount_is_dropped_only_where_its_parent_shows_the_same(mounts, kept):
    assert [mount.target for mount in merged(Mount(*each) for each in mounts)] == kept


_NAME = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1
)


@given(_NAME, _NAME, st.booleans())
def test_any_path_can_be_written_as_a_bind(source, target, read_only):
    text = ":".join(
        [
            *(f"/{name}".replace(":", "\\:") for name in (source, target)),
            "ro" if read_only else "rw",
        ]
    )
    if not source.strip(".") or not target.strip("."):
        return
    assert parse_bind(text) == (f"/{source}", f"/{target}", read_only)


@pytest.mark.parametrize(
    "text", ["", "data", "/a:b", "/", "/a:/", "/a:/b:rx", "/a:/b:ro:x", "/a\n"]
)
def test_a_bind_that_means_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="binds"):
        parse_bind(text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "none", "image": "/x.sif"}, "container=apptainer"),
        ({"kind": "apptainer"}, "container.image=PATH"),
        ({"kind": "apptainer", "image": "/x.sif", "digest": "sha256:12"}, "no SHA-256"),
        ({"kind": "apptainer", "image": "/x\ny.sif"}, "control character"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Container(**settings)


def test_a_missing_image_is_told_with_its_remedy():
    assert "container.image=PATH" in missing_image(Container(kind="apptainer", image="/no.sif"))[0]


def test_the_digest_is_the_images_own_or_that_of_a_record_made_since(image):
    assert digest_of(image)[0] == sha256(image)
    record = ImageRecord("f" * 64, image.stat().st_size, "d", "", {}, "p", "", "")
    time.sleep(0.01)  # a file system's clock ticks every 4 ms
    write_record(image, record)
    assert digest_of(image)[0] == "f" * 64
    time.sleep(0.01)
    image.write_bytes(b"AN IMAGE")
    os.utime(image, ns=(0, 0))
    assert digest_of(image)[0] == sha256(image)


def test_a_run_goes_on_with_its_image_unless_another_is_named(data, image, tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    planned = planned_container(experiment_of(data, image), run)
    assert container_plan(planned).digest == sha256(image)
    write_json(run.launch, {"container": planned})
    planned_container(experiment_of(data, image), run)
    image.write_bytes(b"another image")
    with pytest.raises(ConfigError, match="not the image that the run began with"):
        planned_container(experiment_of(data, image), run)
    named = experiment_of(data, image, **{"container.digest": f"sha256:{sha256(image)}"})
    assert container_plan(planned_container(named, run)).digest == sha256(image)


def test_a_pinned_digest_must_be_the_images(data, image, tmp_path):
    pinned = experiment_of(data, image, **{"container.digest": "0" * 64})
    with pytest.raises(InputError, match=r"not the one in container\.digest"):
        planned_container(pinned, RunDir(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_an_image_of_somebody_else_is_refused_unless_trusted_or_pinned(data, image, tmp_path):
    os.chown(image, 65534, 65534)
    run = RunDir(tmp_path / "run")
    with pytest.raises(InputError, match="belongs to nobody"):
        planned_container(experiment_of(data, image), run)
    for words in ({"container.digest": sha256(image)}, {"cluster.trusted": "[nobody]"}):
        assert planned_container(experiment_of(data, image, **words), run) is not None


def test_no_container_needs_no_image(data, tmp_path):
    _, experiment = compose_experiment(tiny_words(data))
    assert planned_container(experiment, RunDir(tmp_path / "run")) is None
