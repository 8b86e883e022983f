"""The same container for Slurm's pyxis plugin: srun starts the agents inside it.

Broker and health checks stay outside, where Slurm's commands are. The agent needs nothing but
Python, and starts its processes beside itself.
"""

from __future__ import annotations

from pathlib import Path

from hpcjobs.node.container import check_mounts, plan_of
from hpcjobs.node.container_image import refuse_other_image
from hpcjobs.run.container_plan import ContainerPlan, Mount
from hpcjobs.run.errors import ConfigError
from hpcjobs.run.launch import Launch

_TMP = Mount("/tmp", "/tmp", False)  # noqa: S108 - the agents' scratch lies there
_RESERVED = ",:"


def agent_step(launch: Launch, python: str) -> tuple[str, list[str]]:
    """The interpreter of the agents, and what srun is to be told of their container.

    Args:
        launch: the run's launch file.
        python: the interpreter outside.

    Raises:
        InputError: the image or a path is missing here, or it is another image.
    """
    plan = plan_of(launch)
    if plan is None or plan.kind != "pyxis":
        return python, []
    refuse_other_image(plan, Path(launch.code))
    check_mounts(plan.mounts)
    return plan.python, srun_options(plan, str(Path(launch.code).parent))


def srun_options(plan: ContainerPlan, directory: str) -> list[str]:
    """The options of srun for a container; see pyxis(1) and enroot's fstab syntax.

    Args:
        plan: the container.
        directory: where the processes start.
    """
    return [
        f"--container-image={plan.image}",
        f"--container-mounts={','.join(_word(mount) for mount in _mounts(plan))}",
        f"--container-workdir={directory}",
        "--no-container-mount-home",  # packages in it would shadow the image's
        "--no-container-remap-root",  # files keep their owner
        "--no-container-entrypoint",
    ]


def refuse_unnameable(plan: ContainerPlan) -> None:
    """Refuses paths that pyxis has no way to say.

    Raises:
        ConfigError: names the path.
    """
    paths = [path for mount in _mounts(plan) for path in (mount.source, mount.target)]
    for path in (plan.image, *paths):
        if set(path) & set(_RESERVED):
            raise ConfigError(
                f"{path} holds a comma or a colon, which pyxis takes for its own: use another "
                f"path, or container=apptainer"
            )


def _mounts(plan: ContainerPlan) -> list[Mount]:
    cache = [Mount(plan.cache_dir, plan.cache_dir, False)] if plan.cache_dir else []
    return [_TMP, *plan.mounts, *cache]


def _word(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"
