"""``parallel=auto`` submits what the planner chose; what is typed stays, a run goes on as it began."""

import json
import subprocess
import sys

import pytest

from hpcjobs.login import auto_parallel
from hpcjobs.login.compose import compose_experiment, compose_planned
from hpcjobs.login.plan_command import plan_of
from hpcjobs.login.plan_question import plan_as_configured
from hpcjobs.login.prepare import plan_job, refuse_other_run, write_run
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.files import read_json
from hpcjobs.run.plan_config import CardEntry
from hpcjobs.run.schema import plain
from planner.errors import PlannerError
from planner.plan_file import read_plan, write_plan
from planner.plan_hash import config_hash

LORA, DEMO, AUTO = "+experiment=mgm_lora", "+experiment=mgm_lora_demo", "parallel=auto"
H200 = "cluster.gpu_type=h200"


def composed(tmp_path, *words):
    return compose_planned(words, here=tmp_path)


def test_the_choice_becomes_the_experiment(tmp_path):
    done = composed(tmp_path, LORA, AUTO, H200, "planner.deadline_hours=20")
    chosen, parallel = done.plan.chosen, done.experiment.parallel
    assert (parallel.nodes, parallel.gpus_per_node) == (chosen.nodes, chosen.gpus_per_node)
    assert f"zero{parallel.zero_stage}" == chosen.sharding
    assert (parallel.micro_batch, parallel.grad_accum) == (chosen.micro_batch, chosen.grad_accum)
    assert done.experiment.train.grad_checkpointing == chosen.grad_ckpt
    assert done.experiment.train.global_batch == 128
    hours = chosen.prediction.hours.hours_p95
    assert done.experiment.cluster.time_s >= min(3600 * hours, 24 * 3600)
    assert done.experiment.cluster.time_s <= max(3600 * hours + 300, 600)
    assert done.experiment.cluster.mem.endswith("G")
    assert done.experiment.cluster.cpus_per_node == 5 * chosen.gpus_per_node
    assert done.note.startswith("parallel=auto: ")


def test_a_run_that_takes_longer_than_the_limit_is_requeued_there(tmp_path):
    done = composed(
        tmp_path, LORA, AUTO, H200, "planner.max_gpus=1", "planner.time_limit='2:00:00'"
    )
    assert done.plan.chosen.prediction.hours.hours_p95 > 2
    assert done.experiment.cluster.time == "2:00:00"
    whole = composed(tmp_path, LORA, AUTO, H200, "planner.max_gpus=1", "cluster.requeue=false")
    assert whole.experiment.cluster.time_s > 3600 * whole.plan.chosen.prediction.hours.hours_p95


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("parallel.micro_batch=2", lambda e: e.parallel.micro_batch == 2),
        ("parallel.gpus_per_node=2", lambda e: e.parallel.gpus_per_node == 2),
        ("parallel.zero_stage=2", lambda e: e.parallel.zero_stage == 2),
        ("parallel.nodes=2", lambda e: e.parallel.nodes == 2),
        ("parallel.grad_accum=4", lambda e: e.grad_accum == 4),
        ("train.grad_checkpointing=true", lambda e: e.train.grad_checkpointing),
        ("cluster.time='5:00:00'", lambda e: e.cluster.time == "5:00:00"),
        ("cluster.mem=99G", lambda e: e.cluster.mem == "99G"),
        ("cluster.cpus_per_node=3", lambda e: e.cluster.cpus_per_node == 3),
    ],
)
def test_what_is_typed_stays(word, value, tmp_path):
    done = composed(tmp_path, LORA, AUTO, H200, "planner.max_gpus=16", word)
    assert value(done.experiment)
    batch = done.experiment.parallel
    assert batch.micro_batch * done.experiment.grad_accum * batch.world_size == 128


def test_an_experiment_of_ones_own_may_fix_values_beside_auto(tmp_path):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /parallel: auto\nparallel:\n  micro_batch: 2\n"
    )
    words = ["+experiment=mine", H200, "planner.samples=10000"]
    done = compose_planned(words, [own.parent], tmp_path)
    assert done.experiment.parallel.micro_batch == 2
    assert done.plan.chosen.micro_batch == 2


def test_the_cards_of_the_choice_bring_their_partition(tmp_path):
    cards = (
        "planner.cards=[{gpu: L40S, max_gpus: 4, price: 9, partition: dear, gpu_type: l40s},"
        "{gpu: H200-SXM, max_gpus: 4, price: 1, partition: cheap, gpu_type: a100}]"
    )
    cluster = composed(tmp_path, LORA, AUTO, cards).experiment.cluster
    assert (cluster.partition, cluster.gpu_type) == ("cheap", "a100")
    typed = composed(tmp_path, LORA, AUTO, cards, "cluster.partition=mine").experiment.cluster
    assert typed.partition == "mine"


def test_the_plan_of_the_command_and_of_the_submission_are_of_one_experiment(tmp_path):
    done = composed(tmp_path, LORA, AUTO, H200)
    assert done.plan.config_hash == config_hash(plain(done.experiment))


def test_plans_and_submissions_of_one_experiment_have_one_hash(tmp_path):
    searched = plan_of(composed(tmp_path, LORA, H200))
    automatic = composed(tmp_path, LORA, AUTO, H200)
    assert searched.config_hash == automatic.plan.config_hash
    kept = plan_of(composed(tmp_path, LORA, H200, "planner.keep_layout=true"))
    plainly = composed(tmp_path, LORA, H200).experiment
    assert kept.config_hash == config_hash(plain(plainly))
    assert kept.config_hash == plan_as_configured(plainly).config_hash
    assert kept.config_hash != searched.config_hash


def test_a_plan_that_was_approved_is_taken_as_it_is(tmp_path):
    path = tmp_path / "plan.json"
    approved = plan_of(composed(tmp_path, LORA, H200, "planner.deadline_hours=20"))
    write_plan(approved, path)
    words = [LORA, AUTO, H200, f"budget.plan={path}"]
    done = composed(tmp_path, *words)
    assert composed(tmp_path, LORA, AUTO, H200).plan.chosen != approved.chosen
    assert done.plan == approved or done.plan.config_hash == approved.config_hash
    assert config_hash(plain(done.experiment)) == approved.config_hash
    assert f"as planned in {path}" in done.note
    with pytest.raises(ConfigError, match="chose H200-SXM, which is not among the cards"):
        composed(tmp_path, LORA, AUTO, "cluster.gpu_type=l40s", f"budget.plan={path}")
    with pytest.raises(PlannerError, match="cannot read"):
        composed(tmp_path, LORA, AUTO, H200, "budget.plan=missing.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LORA, AUTO, "cluster=local"], "parallel=auto needs to know the cards, and this machine has"),
        ([LORA, AUTO, H200, "parallel.micro_batch=3"], "the nearest that can are 126 and 129"),
        ([LORA, AUTO, H200, "parallel.micro_batch=two"], "parallel.micro_batch must be an integer"),
        ([LORA, AUTO, H200, "planner.deadline_hours=0.1"], "the deadline of 0.1 h cannot be met"),
        ([LORA, AUTO, H200, "planner.offloads=[disk]"], "planner.offloads[0] must be one of none"),
        ([LORA, AUTO, H200, "parallel.offload_params=cpu", "parallel.offload_optimizer=none"],
         "write parallel.offload_optimizer=cpu too"),
        ([LORA, AUTO, H200, "planner.objective=best"], "planner.objective must be one of"),
        ([LORA, AUTO, "cluster.gpu_type=b52"], "no card is called 'b52'"),
        ([LORA, AUTO, H200, "planner.prices=/nowhere.csv"], "cannot read the price table"),
        ([LORA, AUTO, "cluster.gpu_type=rtx-4090", "method=full", "planner.max_gpus=1"],
         "no configuration fits into memory"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_parallel, "cards_here", list)
    with pytest.raises((ConfigError, PlannerError)) as error:
        composed(tmp_path, *words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "stage", "places"),
    [
        (["planner.shardings=[zero3]"], 3, ("none", "none")),
        (["planner.shardings=[zero1,zero3]", "planner.offloads=[optimizer]"], 1, ("cpu", "none")),
        (["planner.offloads=[optimizer_params]"], 3, ("cpu", "cpu")),
        (["parallel.offload_params=cpu", "parallel.offload_optimizer=cpu"], 3, ("cpu", "cpu")),
        (["parallel.zero_stage=2", "parallel.offload_optimizer=cpu"], 2, ("cpu", "none")),
        ([], 0, ("none", "none")),
    ],
)  # fmt: skip
def test_every_stage_and_offload_that_the_planner_chooses_is_submitted(
    words, stage, places, tmp_path
):
    done = composed(tmp_path, LORA, AUTO, H200, "planner.max_gpus=1", *words)
    parallel = done.experiment.parallel
    assert parallel.zero_stage == stage
    assert (parallel.offload_optimizer, parallel.offload_params) == places
    assert done.plan.chosen.offload == parallel.offload
    assert done.plan.config_hash == config_hash(plain(done.experiment))
    assert ("in host memory" in done.note) == ("cpu" in places)


def test_a_cpu_gets_one_process_and_a_line_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(auto_parallel, "cards_here", list)
    done = composed(tmp_path, DEMO, AUTO, "cluster=local")
    assert done.plan is None
    assert done.experiment.parallel.world_size == 1
    assert done.experiment.parallel.micro_batch * done.experiment.grad_accum == 16
    assert "no cards, so nothing was planned: 1 process on the CPU" in done.note


def test_the_cards_of_this_machine_are_planned_for(tmp_path, monkeypatch):
    found = [CardEntry(gpu="NVIDIA H200", gpus_per_node=2, max_gpus=2)]
    monkeypatch.setattr(auto_parallel, "cards_here", lambda: found)
    done = composed(tmp_path, LORA, AUTO, "cluster=local")
    assert done.plan.chosen.gpu == "H200-SXM"
    assert done.experiment.parallel.world_size <= 2


def submitted(tmp_path, *words):
    done = composed(tmp_path, *words)
    job = plan_job(done.request, done.experiment, {}, tmp_path, done.plan)
    write_run(job, words, {})
    return job


def test_the_plan_is_written_into_the_run_and_its_record(tmp_path):
    job = submitted(tmp_path, LORA, AUTO, H200, "run_dir=run")
    plan = read_plan(job.run.plan)
    record = read_json(job.run.record)["plan"]
    assert record["config_hash"] == plan.config_hash
    assert record["parallel"]["micro_batch"] == plan.chosen.micro_batch
    assert read_json(job.run.config)["parallel"]["grad_accum"] == plan.chosen.grad_accum
    assert job.run.plan.stat().st_mode & 0o777 == 0o600


def test_a_run_goes_on_as_it_began_whatever_the_planner_would_say_now(tmp_path):
    first = submitted(tmp_path, LORA, AUTO, H200, "run_dir=run", "planner.max_gpus=2")
    before = first.run.plan.read_bytes()
    done = composed(tmp_path, LORA, AUTO, H200, "run_dir=run", "planner.objective=fastest",
                    "planner.max_gpus=8")  # fmt: skip
    assert done.plan is None
    assert done.experiment.parallel == first.experiment.parallel
    assert done.experiment.cluster == first.experiment.cluster
    assert "as the run began" in done.note
    job = plan_job(done.request, done.experiment, {}, tmp_path, done.plan)
    write_run(job, ["again"], {})
    assert job.run.plan.read_bytes() == before
    assert read_json(job.run.record)["plan"]["parallel"] == plain(first.experiment.parallel)


def test_a_value_that_is_typed_when_a_run_goes_on_is_compared_with_the_runs_own(tmp_path):
    first = submitted(tmp_path, LORA, AUTO, H200, "run_dir=run", "parallel.micro_batch=1")
    words = [LORA, AUTO, H200, "run_dir=run", "parallel.zero_stage=2"]
    assert first.experiment.parallel.zero_stage != 2
    done = composed(tmp_path, *words)
    with pytest.raises(ConfigError, match=r"holds a run with parallel\.zero_stage="):
        refuse_other_run(first.run, done.experiment)
    longer = composed(tmp_path, LORA, AUTO, H200, "run_dir=run", "cluster.time='9:00:00'")
    assert longer.experiment.cluster.time == "9:00:00"
    refuse_other_run(first.run, longer.experiment)


def test_without_auto_nothing_is_planned(tmp_path):
    done = composed(tmp_path, LORA)
    assert (done.plan, done.note) == (None, None)
    assert done.experiment == compose_experiment([LORA], here=tmp_path)[1]


def test_a_dry_run_shows_the_script_of_the_choice(tmp_path):
    words = [LORA, AUTO, H200, "dry_run=true", "planner.deadline_hours=20"]
    shown = subprocess.run(
        [sys.executable, "-m", "hpcjobs.submit", *words], cwd=tmp_path, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "parallel=auto: " in shown.stderr
    assert "#SBATCH --gpus-per-node=h200:" in shown.stdout
    assert "#SBATCH --mem=" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_record_is_json_without_a_plan_too(tmp_path):
    job = submitted(tmp_path, LORA, "run_dir=run")
    assert json.loads(job.run.record.read_text())["plan"] is None
    assert not job.run.plan.exists()
