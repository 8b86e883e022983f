"""The test of an image: the whole stack is imported and takes one real training step.

Runs in the container as ``%test``; needs nothing but the image.
"""

import os
import socket
import sys

import torch

# Said before DeepSpeed is imported, or it warns that it had to guess.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
os.environ["DS_ACCELERATOR"] = DEVICE

import accelerate
import deepspeed
import numpy as np
import peft
import PIL
import safetensors
import tokenizers
import transformers


def main() -> None:
    """Trains a tiny linear model for one step under DeepSpeed ZeRO-1 and prints the versions."""
    modules = (torch, deepspeed, transformers, peft, accelerate, safetensors, tokenizers, PIL, np)
    for module in modules:
        print(f"{module.__name__}=={module.__version__}")
    before, after = one_step()
    if not np.isfinite(after) or before == after:
        raise SystemExit("error: one step of ZeRO-1 left the weights as they were")
    print(f"one ZeRO-1 step on {DEVICE}: ok")


def one_step() -> tuple[float, float]:
    """The sum of the weights before and after one step."""
    os.environ.update(
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
    )
    # It would be compiled here, and the image has no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    torch.manual_seed(1)
    model = torch.nn.Linear(8, 8)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        config={
            "train_batch_size": 2,
            "gradient_clipping": 1.0,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": 1},
            "steps_per_print": 2**31 - 1,
        },
        dist_init_required=False,
    )
    before = float(model.weight.detach().sum())
    engine.backward(engine(torch.ones(2, 8, device=engine.device)).square().mean())
    engine.step()
    return before, float(model.weight.detach().sum())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # after gloo has been used, some interpreter exits abort in C++ destruction
