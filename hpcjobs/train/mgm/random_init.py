"""Starting values for towers that have no checkpoint: random, but informative, features.

A frozen random tower is useful only where different pictures give different features. The
libraries' defaults are meant for training, with a standard deviation of 0.02 and nearly muted
residual branches: through a few layers the picture fades and the biases of position remain.
"""

from torch import nn

# Small beside a patch's content, whose variance is about one, yet enough to tell places apart.
_POSITION_STD = 0.3


def init_fan_in(tower: nn.Module) -> None:
    """Draws weights whose outputs keep the variance of their inputs; biases become zero.

    Linear and convolution weights are normal with variance 1 / fan_in (LeCun et al., "Efficient
    BackProp", 1998, section 4.6), layer norms start as the identity. Draws from torch's current
    generator; does nothing on the meta device.

    Args:
        tower: a module of linear, convolution, embedding and layer norm layers.
    """
    for layer in tower.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=_fan_in(layer) ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=_POSITION_STD)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def _fan_in(layer: nn.Linear | nn.Conv2d) -> int:
    """Inputs of one output value: a depthwise kernel sees its own channel only."""
    return layer.weight[0].numel()
