"""Keys of the detectors' published weights whose layers were renamed after these had been published."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

__all__ = ["upgrade_keys", "upgrade_keys_hook", "upgrade_retinanet_keys_hook"]

_RENAMED = (
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
    (re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"), r"\1.0.\2"),
)
_RETINANET_LAYER = re.compile(r"(head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)")
_MASK_LAYER = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)")


def upgrade_keys(state_dict: dict[str, Any], prefix: str = "") -> None:
    """Rename, in place, keys of a detector's weights from the time before its convolutions became blocks.

    Args:
        state_dict: tensors by key; keys may be old, new, or both.
        prefix: what the detector's keys within it begin with.
    """
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = _upgraded(key.removeprefix(prefix))
        if prefix + name != key:
            state_dict[prefix + name] = state_dict.pop(key)


def _upgraded(name: str) -> str:
    if layer := _MASK_LAYER.fullmatch(name):
        return f"roi_heads.mask_head.{int(layer[1]) - 1}.0.{layer[2]}"  # layers were counted from 1
    for old, new in _RENAMED:
        if old.fullmatch(name):
            return old.sub(new, name)
    return name


def upgrade_keys_hook(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename old keys before a module loads them; `register_load_state_dict_pre_hook` takes this function."""
    upgrade_keys(state_dict, prefix)


def upgrade_retinanet_keys_hook(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename old keys before a RetinaNet loads them; `register_load_state_dict_pre_hook` takes this function.

    Layers of its heads are among them: old keys count each ReLU as a layer.
    """
    upgrade_keys(state_dict, prefix)
    for key in [key for key in state_dict if key.startswith(prefix)]:
        if layer := _RETINANET_LAYER.fullmatch(key.removeprefix(prefix)):
            state_dict[f"{prefix}{layer[1]}.{int(layer[2]) // 2}.0.{layer[3]}"] = state_dict.pop(key)
