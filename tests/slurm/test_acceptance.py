"""The demo as a user meets it, on two nodes of a real Slurm: it learns, looks, and survives.

Slow: two whole trainings of the demo, about a minute and a half each on two cores.
"""

import re

import pytest
import torch
from peft import PeftModel
from runs import assert_equal_runs, submit, trained_steps, wait_until
from transformers import GemmaForCausalLM

from hpcjobs.login.override_word import override_word
from hpcjobs.run.experiment import Experiment
from hpcjobs.run.files import read_json, read_lines
from hpcjobs.run.layout import RunDir
from hpcjobs.run.schema import build
from hpcjobs.train.mgm.model import build_model, gemma_config

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]


def submit_demo(slurm, place, name):
    run = RunDir(place / name)
    words = [
        "+experiment=mgm_lora_demo", "cluster=slurm", "cluster.partition=low", "cluster.mem=4G",
        "cluster.cpus_per_node=1", "parallel.nodes=2", "parallel.gpus_per_node=1",
        override_word("runs_dir", place), override_word("run_dir", run.path),
    ]  # fmt: skip
    answer = submit(words, place, env=slurm.env)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"submitted as Slurm job \d+", answer.stdout)
    return run


def wait_for_end(run, attempt):
    path = run.attempt(attempt).verdict
    wait_until(path.exists, f"the end of attempt {attempt} in {run.path}", 400)
    return read_json(path)["status"]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    run = submit_demo(slurm, tmp_path_factory.mktemp("demo"), "undisturbed")
    assert wait_for_end(run, 1) == "done"
    return run


def test_the_demo_learns_and_looks_at_its_pictures(undisturbed):
    result = read_json(undisturbed.result_file)
    assert result["heldout_loss_after"] <= 0.7 * result["heldout_loss_before"]
    assert result["heldout_loss_shuffled_pictures"] >= 1.05 * result["heldout_loss_after"]


def test_a_preempted_demo_ends_bit_equal_to_the_undisturbed_one(slurm, undisturbed):
    run = submit_demo(slurm, undisturbed.path.parent, "preempted")
    wait_until(lambda: len(trained_steps(run)) >= 30, "thirty steps", 120)
    slurm.run("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    assert wait_for_end(run, 1) == "checkpointed"
    assert wait_for_end(run, 2) == "done"
    requeued = [event for event in read_lines(run.events) if event["kind"] == "requeued"]
    assert len(requeued) == 1
    assert_equal_runs(undisturbed, run)


def test_plain_peft_loads_the_adapter_on_a_plain_gemma(undisturbed):
    experiment = build(Experiment, read_json(undisturbed.config))
    torch.manual_seed(experiment.train.seed)
    ours = build_model(experiment.model)
    plain = GemmaForCausalLM(gemma_config(experiment.model.text))
    plain.load_state_dict(
        {name: value for name, value in ours.state_dict().items() if name in plain.state_dict()}
    )
    ids = torch.arange(5, 25)[None]
    before = plain(ids).logits
    adapted = PeftModel.from_pretrained(plain, undisturbed.result / "adapter").eval()
    assert not torch.allclose(adapted(ids).logits, before)
    lora = [name for name, _ in adapted.named_parameters() if "lora_B" in name]
    assert len(lora) == 7 * experiment.model.text.layers
    assert all(adapted.get_parameter(name).abs().max() > 0 for name in lora)
