"""No secret is written into a script, a configuration or a record, nor repeated in a message."""

import pytest

from hpcjobs.login.secrets import refuse_secrets
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.job_environment import job_environment

PLANTED = "s3cr3t-planted-value"


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        (f"export WANDB_API_KEY={PLANTED}", {}),
        (f"my_token={PLANTED}", {}),
        (f"password={PLANTED}", {}),
        (f"--header {PLANTED}", {"HF_TOKEN": PLANTED}),
        ("hf_" + "a" * 30, {}),
        ("ghp_" + "a" * 36, {}),
        ("AKIA" + "A" * 16, {}),
    ],
)
def test_a_secret_is_refused_and_not_repeated(text, environment):
    with pytest.raises(ConfigError) as error:
        refuse_secrets("the batch script", text, environment)
    assert PLANTED not in str(error.value)
    assert "cluster.env_file" in str(error.value)


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("tokenizer=/models/tokenizer.json", {}),
        ("module load cuda", {"HF_TOKEN": ""}),
        ("max_tokens: 3", {"HF_TOKEN": "abc"}),
        ("--signal=B:USR2@120", {"PATH": "/bin"}),
    ],
)
def test_ordinary_text_passes(text, environment):
    refuse_secrets("the batch script", text, environment)


def test_the_job_starts_without_the_shells_secrets_and_sbatch_variables():
    shell = {
        "PATH": "/bin", "HOME": "/h", "HF_TOKEN": PLANTED, "AWS_SECRET_ACCESS_KEY": PLANTED,
        "SBATCH_PARTITION": "x", "SLURM_JOB_ID": "3", "SLURM_CONF": "/etc/slurm.conf",
        "MODULEPATH": "/m", "BASH_FUNC_module%%": "() { :; }",
    }  # fmt: skip
    assert set(job_environment(shell)) == {
        "PATH", "HOME", "SLURM_CONF", "MODULEPATH", "BASH_FUNC_module%%",
    }  # fmt: skip
