"""Networks that give their intermediate results, cut out of a model's graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import fx, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.maxvit import PartitionAttentionLayer
from zoofleet.models.swin_transformer import ShiftedWindowAttention

__all__ = ["FeatureExtractor", "create_feature_extractor", "get_graph_node_names"]


LEAF_MODULES: Final = (ShiftedWindowAttention, PartitionAttentionLayer)
"""Modules whose computation depends on the sizes of what they get, which torch.fx cannot trace."""


class _NamingTracer(fx.Tracer):
    """Names each node by the path of the module that it stands in, and by its module or function within it."""

    def __init__(self, leaf_modules: Sequence[type[nn.Module]] = (), **options: Any) -> None:
        super().__init__(**options)
        self.leaf_modules = tuple(leaf_modules)
        self.names: dict[fx.Node, str] = {}
        self._path = ""
        self._counts: dict[str, int] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of torch.nn, and what the caller wants to see whole."""
        return isinstance(m, self.leaf_modules) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a module, with its path as the prefix of what it does."""
        outer, self._path = self._path, self.path_of_module(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._path = outer

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> fx.Node:
        """Make a node and note its name; the second of one name ends in `_1`, and so on."""
        node = super().create_node(kind, target, args, kwargs, *more, **options)
        if kind == "call_module":
            name = self._path
        else:
            plain = target if isinstance(target, str) else target.__name__.strip("_")
            name = f"{self._path}.{plain}" if self._path and kind != "get_attr" else plain
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        self.names[node] = f"{name}_{count}" if count else name
        return node


class FeatureExtractor(fx.GraphModule):
    """A model cut down to the results that are asked for, in training and in evaluation mode.

    Args:
        root: the model; its layers are shared, not copied, and keep their names.
        train_graph: runs in training mode.
        eval_graph: runs in evaluation mode.
    """

    def __init__(self, root: nn.Module, train_graph: fx.Graph, eval_graph: fx.Graph) -> None:
        super().__init__(root, eval_graph)
        for node in train_graph.nodes:
            if node.op in ("call_module", "get_attr"):
                _share(root, self, node.target)
        self._graphs = {True: train_graph, False: eval_graph}
        self.train(root.training)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Set the mode, and with it the graph that runs."""
        if "_graphs" in self.__dict__:
            self.graph = self._graphs[mode]
        return super().train(mode)


def _share(source: nn.Module, target: nn.Module, path: str) -> None:
    """Give `target` what stands at that path of `source`."""
    *parents, name = path.split(".")
    for parent in parents:
        source = getattr(source, parent)
        if not hasattr(target, parent):
            target.add_module(parent, nn.Module())
        target = getattr(target, parent)
    value = getattr(source, name)
    if name in source._buffers:
        target.register_buffer(name, value)
    else:
        setattr(target, name, value)


def get_graph_node_names(
    model: nn.Module,
    tracer_kwargs: Mapping[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: Mapping[str, Any] | None = None,
) -> tuple[list[str], list[str]]:
    """What `create_feature_extractor` can give of a model, in the order in which it is computed.

    A layer's result has its name in the state dict, and `_1` and so on where the layer is used again; a function's has
    the function's name behind that of the module in which it is called.

    Args:
        model: traceable by torch.fx: no branch or loop depends on a tensor.
        tracer_kwargs: `leaf_modules` to be seen whole, and the options of `torch.fx.Tracer`.
        suppress_diff_warning: do not warn where the modes differ.
        concrete_args: values for arguments of the model that are not to be traced, by their names.

    Returns:
        The names in training mode, and those in evaluation mode.

    Raises:
        InvalidArgumentError: torch.fx cannot trace the model.
    """
    train, evaluation = (_traced(model, mode, tracer_kwargs, concrete_args) for mode in (True, False))
    names = (list(train.values()), list(evaluation.values()))
    if not suppress_diff_warning and names[0] != names[1]:
        warnings.warn("the model computes other results in training than in evaluation", UserWarning, stacklevel=2)
    return names


def create_feature_extractor(
    model: nn.Module,
    return_nodes: Sequence[str] | Mapping[str, str] | None = None,
    train_return_nodes: Sequence[str] | Mapping[str, str] | None = None,
    eval_return_nodes: Sequence[str] | Mapping[str, str] | None = None,
    tracer_kwargs: Mapping[str, Any] | None = None,
    suppress_diff_warning: bool = False,
    concrete_args: Mapping[str, Any] | None = None,
) -> FeatureExtractor:
    """A network that gives some of a model's intermediate results, and computes nothing that they do not need.

    Args:
        model: traceable by torch.fx: no branch or loop depends on a tensor. Its layers are shared, not copied.
        return_nodes: names of results, or such names to those under which they come. The name of a module that is not
            a layer stands for its last result.
        train_return_nodes: the results in training mode, given together with `eval_return_nodes` in the place of
            `return_nodes`.
        eval_return_nodes: the results in evaluation mode.
        tracer_kwargs: `leaf_modules` to be seen whole, and the options of `torch.fx.Tracer`.
        suppress_diff_warning: do not warn where the modes differ.
        concrete_args: values for arguments of the model that are not to be traced, by their names.

    Returns:
        A module that takes the model's arguments, and gives a dict in the order of the names.

    Raises:
        InvalidArgumentError: a name that is not there, both ways of naming, or a model that torch.fx cannot trace.
    """
    each = (train_return_nodes, eval_return_nodes) if return_nodes is None else (return_nodes, return_nodes)
    if return_nodes is not None and (train_return_nodes is not None or eval_return_nodes is not None):
        raise InvalidArgumentError("return_nodes names the results of both modes: give no others beside it")
    graphs, orders = [], []
    for mode, wanted in zip((True, False), each, strict=True):
        if wanted is None:
            raise InvalidArgumentError("give either return_nodes, or both train_return_nodes and eval_return_nodes")
        names = _traced(model, mode, tracer_kwargs, concrete_args)
        orders.append(list(names.values()))
        graphs.append(_cut(names, wanted if isinstance(wanted, Mapping) else {name: name for name in wanted}))
    if return_nodes is not None and not suppress_diff_warning and orders[0] != orders[1]:
        warnings.warn("the model computes other results in training than in evaluation", UserWarning, stacklevel=2)
    return FeatureExtractor(model, *graphs)


def _traced(
    model: nn.Module,
    training: bool,
    tracer_kwargs: Mapping[str, Any] | None,
    concrete_args: Mapping[str, Any] | None,
) -> dict[fx.Node, str]:
    """The nodes of a model's graph in that mode, with their names; the output has none."""
    options = dict(tracer_kwargs or {})
    options["leaf_modules"] = (*LEAF_MODULES, *options.get("leaf_modules", ()))
    tracer = _NamingTracer(**options)
    before = model.training
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        model.train(training)
        graph = tracer.trace(model, dict(concrete_args) if concrete_args else None)
    except fx.proxy.TraceError as error:
        raise InvalidArgumentError(f"torch.fx cannot trace {type(model).__name__}: {error}"[:500]) from error
    finally:
        model.train(before)
        for name, module in model.named_modules():
            module.training = modes[name]
    return {node: tracer.names[node] for node in graph.nodes if node.op != "output"}


def _cut(names: Mapping[fx.Node, str], wanted: Mapping[str, str]) -> fx.Graph:
    """The graph with the wanted results as its output, and without what they do not need."""
    graph = next(iter(names)).graph
    found = {}
    for name, given in wanted.items():
        nodes = [node for node, own in names.items() if own == name or own.startswith(f"{name}.")]
        if not nodes:
            raise InvalidArgumentError(f"the model has no result {name!r}; get_graph_node_names lists those it has")
        found[given] = nodes[-1]
    for node in list(graph.nodes):
        if node.op == "output":
            graph.erase_node(node)
    graph.output(found)
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph
