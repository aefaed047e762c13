"""Taking a network's intermediate results, as backbones of detectors and segmenters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError

__all__ = ["IntermediateLayerGetter"]


class IntermediateLayerGetter(nn.ModuleDict):
    """The first children of a network, in order, giving the results of some of them by name.

    Children after the last one needed are dropped; the others keep their names, so that published state dicts fit.
    Only networks that call their direct children one after the other can be cut in this way.

    Args:
        model: the network, whose children are shared, not copied.
        return_layers: a child's name to the name of its result.

    Raises:
        InvalidArgumentError: the network has no child of such a name.
    """

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        children = dict(model.named_children())
        missing = [name for name in return_layers if name not in children]
        if missing:
            raise InvalidArgumentError(f"no layers {missing} in the network; it has {list(children)}")
        names = list(children)
        last = max(names.index(name) for name in return_layers)
        super().__init__({name: children[name] for name in names[: last + 1]})
        self.return_layers = dict(return_layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The network's input, such as (N, 3, H, W), to the named results in the order of the layers."""
        results = {}
        for name, layer in self.items():
            x = layer(x)
            if name in self.return_layers:
                results[self.return_layers[name]] = x
        return results
