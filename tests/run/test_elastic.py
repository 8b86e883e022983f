"""A range of nodes is used as far as it divides the batch, and what cannot divide it is refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.login.compose import compose_experiment
from hpcjobs.login.prepare import plan_job, refuse_other_run, write_run
from hpcjobs.run.elastic import fitted, usable_nodes
from hpcjobs.run.errors import ConfigError, InputError
from hpcjobs.run.launch import Launch, read_launch

LORA = "+experiment=mgm_lora"


@given(there=st.integers(1, 64), per_node=st.integers(1, 8), units=st.integers(1, 512))
def test_the_most_nodes_that_divide_the_batch_are_used(there, per_node, units):
    used = usable_nodes(there, per_node, units)
    dividing = [n for n in range(1, there + 1) if units % (n * per_node) == 0]
    assert used == max(dividing, default=None)


def launch(**changes):
    plain = Launch("python", 4, 2, 8, requeue=True, env={}, env_file=None)
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("there", "used"), [(1, 1), (2, 2), (3, 2), (4, 4), (9, 4)]
)  # fmt: skip
def test_a_launch_fits_itself_to_the_nodes_that_are_there(there, used):
    fit = fitted(launch(min_nodes=1, batch_units=16), there)
    assert (fit.nodes, fit.world_size) == (used, 2 * used)


def test_a_fixed_number_of_nodes_stays_and_is_asked_for():
    assert fitted(launch(), 4) == fitted(launch(), 5) == launch()
    with pytest.raises(InputError, match="has 3 nodes and the run needs 4"):
        fitted(launch(), 3)
    with pytest.raises(InputError, match="9 micro batches divide over none of 1 to 4 nodes"):
        fitted(launch(min_nodes=1, batch_units=9), 4)


def composed(tmp_path, *words):
    return compose_experiment([LORA, *words], here=tmp_path)


def test_a_range_reaches_sbatch_and_the_nodes(tmp_path):
    words = ["parallel.nodes=2-4", "parallel.gpus_per_node=2", "run_dir=run"]
    request, experiment = composed(tmp_path, *words)
    assert (experiment.parallel.min_nodes, experiment.parallel.nodes) == (2, 4)
    job = plan_job(request, experiment, {}, tmp_path)
    assert "#SBATCH --nodes=2-4\n" in job.script
    assert "ntasks-per-node" not in job.script
    write_run(job, words, {})
    written = read_launch(job.run.launch)
    batch = experiment.train.global_batch // experiment.parallel.micro_batch
    assert (written.nodes, written.min_nodes, written.batch_units) == (4, 2, batch)
    for nodes in ("2", "1-2", "4"):
        refuse_other_run(job.run, composed(tmp_path, *words[1:], f"parallel.nodes={nodes}")[1])
    assert json.loads(job.run.config.read_text())["parallel"]["min_nodes"] == 2


def test_the_global_batch_is_the_same_on_every_number_of_processes(tmp_path):
    _, experiment = composed(tmp_path, "parallel.nodes=1-8", "parallel.gpus_per_node=2")
    for world in (2, 4, 8, 16):
        there = experiment.on(world)
        product = there.grad_accum * there.parallel.micro_batch * there.parallel.world_size
        assert (product, there.parallel.world_size) == (experiment.train.global_batch, world)
    with pytest.raises(ConfigError, match="world size 6"):
        experiment.on(6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parallel.nodes=4-2"], "min_nodes (4) is above nodes (2)"),
        (["parallel.nodes=0-2"], "min_nodes must be at least 1"),
        (["parallel.nodes=2-4", "parallel.grad_accum=2"], "grad_accum follows from the nodes"),
        (["parallel.nodes=5-7"], "none of 5 to 7 nodes"),
        (["parallel.nodes=2-"], "parallel.nodes must be an integer"),
        (["parallel=auto", "cluster.gpu_type=h200", "parallel.nodes=2-4"], "parallel.nodes=2-4 goes with"),
    ],
)  # fmt: skip
def test_an_impossible_range_is_one_line(tmp_path, words, said):
    with pytest.raises(ConfigError) as caught:
        composed(tmp_path, *words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
