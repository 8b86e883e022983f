"""The training objective: summed cross-entropy of the labelled tokens.

Shapes: B samples, L tokens of the padded sequence, D width of the language model, R labelled
positions of the batch, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

IGNORE_INDEX = -100
"""The label of positions that are not learnt: prompts, pictures, padding."""


def summed_cross_entropy(hidden_BLD: Tensor, labels_BL: Tensor, lm_head: nn.Module) -> Tensor:
    """Returns the sum over labelled tokens of ``-log p(token | everything before it)``.

    A sum, not a mean: over micro batches and ranks only sums add up to the mean over all tokens.

    Args:
        hidden_BLD: the language model's last hidden states.
        labels_BL: token ids, unshifted; ``IGNORE_INDEX`` where nothing is learnt.
        lm_head: maps D to V.

    Returns:
        A scalar in fp32; zero, with a gradient of zeros, where no token has a label.
    """
    next_BL = labels_BL[:, 1:]
    learnt_BL = next_BL != IGNORE_INDEX
    # Logits are the peak of memory: 256,000 fp32 values are 1 MB a position, 2.1 GB for a sample
    # of 2048, several times over in the loss. Most positions (the picture alone is 576) have no
    # label, so the head sees only those that have.
    logits_RV = lm_head(hidden_BLD[:, :-1][learnt_BL]).float()
    return F.cross_entropy(logits_RV, next_BL[learnt_BL], reduction="sum")
