"""What users type becomes one validated experiment, or one line that says what to write."""

import pytest

from hpcjobs.login.compose import compose_experiment, group_choices
from hpcjobs.run.errors import ConfigError

DEMO = "+experiment=mgm_lora_demo"


@pytest.mark.parametrize("name", group_choices("experiment"))
def test_every_experiment_that_ships_composes(name, tmp_path):
    _, experiment = compose_experiment([f"+experiment={name}"], here=tmp_path)
    assert experiment.grad_accum >= 1


@pytest.mark.parametrize("group", ["model", "data", "method", "parallel", "train", "cluster"])
def test_every_choice_of_every_group_is_valid(group, tmp_path):
    for choice in group_choices(group):
        words = [f"{group}={choice}", "train.global_batch=8", "cluster.gpu_type=h200"]
        compose_experiment(words, here=tmp_path)


def test_the_users_words_win_over_the_experiment(tmp_path):
    words = [DEMO, "method.rank=4", "parallel=zero1", "parallel.gpus_per_node=1", "dry_run=true"]
    request, experiment = compose_experiment(words, here=tmp_path)
    assert request.dry_run
    assert (experiment.method.rank, experiment.parallel.zero_stage) == (4, 1)


def test_paths_become_absolute_from_where_the_user_stands(tmp_path):
    words = ["+experiment=mgm_lora", "data.root=mine", "model.path=weights"]
    _, experiment = compose_experiment(words, here=tmp_path)
    assert experiment.data.root == str(tmp_path / "mine")
    assert experiment.model.path == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.lrr=1", "unknown key train.lrr; did you mean 'train.lr'?"),
        ("+train.lrr=1", "unknown key train.lrr; did you mean 'lr'?"),
        ("trane.lr=1", "unknown key trane.lr; did you mean 'train.lr'?"),
        ("method=lorra", "there is no method=lorra; did you mean 'lora'?"),
        (
            "+experiment=mgm_lora_dem",
            "there is no experiment=mgm_lora_dem; did you mean 'mgm_lora_demo'?",
        ),
        ("train.lr=fast", "train.lr must be a number, not 'fast'"),
        ("train.steps=1.5", "train.steps must be an integer"),
        ("parallel.gpus_per_node=three", "parallel.gpus_per_node must be an integer"),
        ("train.precision=bf61", "train.precision must be one of bf16, fp16, fp32, not 'bf61'"),
        ("train.global_batch=17", "train.global_batch is 17: write train.global_batch=16"),
        ("cluster.time=0:02:00", "signal_lead_s (120 s) must be shorter than the time limit"),
        ("cluster.time=7200", "time must be text such as '2:00:00', not the number 7200"),
        ("name='a b'", "name must be 1 to 64"),
        ("cluster.sbatch.exclude=n1", "write it with a plus: +cluster.sbatch.exclude=..."),
        ("cluster.partition=12", "write it as text: 'cluster.partition=\"12\"'"),
        ("runs_dir=3", "runs_dir must be text"),
        ("model.path=${nothing}", "nothing"),
        ("a b", "cannot read 'a b': write key=value"),
        ("cluster.constraint=a&b", "cannot read 'cluster.constraint=a&b'"),
    ],
)
def test_a_mistake_is_one_line(word, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        compose_experiment([DEMO, word], here=tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_experiment_without_its_plus_is_told_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match=r"write it with a plus: \+experiment="):
        compose_experiment(["experiment=mgm_lora_demo"], here=tmp_path)


def test_own_groups_come_from_an_own_directory(weird_tmp_path):
    own = weird_tmp_path / "my conf" / "data"
    own.mkdir(parents=True)
    (own / "birds.yaml").write_text("root: /birds\ntrain: train.json\nheldout: null\n")
    _, experiment = compose_experiment(
        ["+experiment=mgm_lora", "data=birds"], [own.parent], weird_tmp_path
    )
    assert experiment.data.root == "/birds"


def test_an_own_experiment_by_hydras_own_search_path(tmp_path):
    own = tmp_path / "experiment"
    own.mkdir()
    (own / "mine.yaml").write_text("# @package _global_\nname: mine\ntrain:\n  lr: 0.5\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=mine", "train.global_batch=8"]
    _, experiment = compose_experiment(words, here=tmp_path)
    assert (experiment.name, experiment.train.lr) == ("mine", 0.5)


def test_a_missing_own_directory_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is not a directory"):
        compose_experiment([DEMO], [tmp_path / "none"], tmp_path)


def test_nothing_is_written_by_composing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compose_experiment([DEMO])
    assert list(tmp_path.iterdir()) == []
