"""What the update rules of all algorithms share: optimizers, targets, frozen critics, metrics, state."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import NetworkConfig
from .errors import ConfigError, MissingDependencyError, printable
from .networks import MLP

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_FUSED = ("adam", "adamw", "sgd")


class Optimizer:
    """One torch optimizer for all parameters of one module, saved under the names of plain parameters.

    Parameters
    ----------
    module : nn.Module
    config : NetworkConfig
        Gives ``optimizer`` and ``weight_decay``.
    learning_rate : float
    """

    def __init__(self, module: nn.Module, config: NetworkConfig, learning_rate: float) -> None:
        self.module = module
        options: dict[str, Any] = {"lr": learning_rate, "weight_decay": config.weight_decay}
        if config.optimizer in _FUSED:
            options["fused"] = True
        self.torch = _OPTIMIZERS[config.optimizer]([p for p in module.parameters() if p.requires_grad], **options)

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of ``loss``."""
        self.torch.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.torch.step()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name, parameter, mlp in _leaves(self.module):
            for key, value in self.torch.state.get(parameter, {}).items():
                flat = mlp is not None and value.shape == parameter.shape
                parts = mlp.named_views(value) if flat else [("", value)]  # type: ignore[union-attr]
                for part, tensor in parts:
                    state.setdefault(f"{name}.{part}".strip("."), {})[key] = tensor.detach().clone()
        return {"learning_rate": self.torch.param_groups[0]["lr"], "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.torch.param_groups[0]["lr"] = saved["learning_rate"]
        self.torch.state.clear()
        state = saved["state"]
        for name, parameter, mlp in _leaves(self.module):
            own: dict[str, Tensor] = {k: _fitting(v, parameter, name) for k, v in state.get(name, {}).items()}
            if mlp is not None:
                for part, view in mlp.named_views(parameter.detach()):
                    key_of_part = f"{name}.{part}".strip(".")
                    for key, value in state.get(key_of_part, {}).items():
                        flat = own.setdefault(key, torch.zeros_like(parameter))
                        dict(mlp.named_views(flat))[part].copy_(_fitting(value, view, key_of_part))
            if own:
                # A fused optimizer wants its step counts where the parameters are, and the others do not mind.
                self.torch.state[parameter] = {k: v.to(parameter.device, copy=True) for k, v in own.items()}


def _fitting(value: Tensor, parameter: Tensor, name: str) -> Tensor:
    """Return an optimizer's figure for a parameter, one number or one per entry; ValueError otherwise."""
    if value.dim() and value.shape != parameter.shape:
        raise ValueError(f"the optimizer's state of {name} has shape {tuple(value.shape)}, must be {tuple(parameter.shape)}")
    return value


def _leaves(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, MLP | None]]:
    """Yield (name, leaf tensor, the MLP it is the flat buffer of) for each trained parameter."""
    for prefix, child in module.named_modules():
        if isinstance(child, MLP):
            yield prefix, child.flat, child
            continue
        for name, parameter in child.named_parameters(recurse=False):
            yield f"{prefix}.{name}".strip("."), parameter, None


def network_options(config: NetworkConfig) -> dict[str, Any]:
    """Return the options of a config that every MLP takes."""
    return {"activation": config.activation, "layer_norm": config.layer_norm, "dropout": config.dropout}


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device; ``auto`` is the CPU, which is faster for networks and batches of the usual size.

    Raises
    ------
    ConfigError
        When there is no such kind of device.
    MissingDependencyError
        When this machine has none.
    """
    name = "cpu" if str(device) == "auto" else str(device)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ConfigError(f"device is {printable(name)!r}, must be auto, cpu, cuda or cuda:N", param="--device", value=name)
    if kind == "cuda":
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= n:
            present = ", ".join(["cpu", *(f"cuda:{i}" for i in range(n))])
            raise MissingDependencyError(f"device {name} is not there, present: {present}", param="--device", value=name)
    return torch.device(name)


def make_target(module: nn.Module) -> nn.Module:
    """Return a frozen copy of a network in evaluation mode, to be moved by :func:`polyak`."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target's parameters by ``tau`` towards the online ones; buffers (running statistics) are copied."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
    for old, new in zip(target.buffers(), online.buffers(), strict=True):
        old.copy_(new)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network to its inputs without computing those of its parameters."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


class Metrics(Mapping[str, float]):
    """Figures by name; tensors become floats when they are read, so an unread metric costs no synchronisation."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = dict(values or {})

    def put(self, values: Mapping[str, Any]) -> None:
        """Replace figures of the same names and add new ones."""
        self._values.update(values)

    def first_nonfinite(self, names: Iterable[str]) -> str | None:
        """Return the first of these names whose figure is NaN or infinite; what is no number is passed over."""
        return next((k for k in names if isinstance(self[k], int | float) and not math.isfinite(self[k])), None)

    def values_by_name(self) -> dict[str, Any]:
        """Return the figures as they are, read or not."""
        return dict(self._values)

    def __getitem__(self, name: str) -> float:
        value = self._values[name]
        if isinstance(value, Tensor) and value.numel() == 1:
            value = self._values[name] = float(value.detach())
        elif isinstance(value, np.generic):
            value = self._values[name] = value.item()
        return value  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in self._values  # Mapping's own would read it

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metrics({dict(self)})"


def gather_state(owner: object, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return copies of the state of every attribute that has one: modules, optimizers, generators, normalisers, …"""
    state: dict[str, Any] = {}
    for name, value in stateful(owner, skip):
        state[name] = value.get_state() if isinstance(value, torch.Generator) else owned(value.state_dict())
    return state


def stateful(owner: object, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that have a state, members of lists, tuples and dicts as ``name.0`` or ``name.key``."""
    for name, value in vars(owner).items():
        if name in skip:
            continue
        members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        for where, one in [(name, value), *((f"{name}.{key}", member) for key, member in members)]:
            if isinstance(one, torch.Generator) or callable(getattr(one, "state_dict", None)):
                yield where, one


def fingerprint(value: Any) -> str:
    """Return a digest of a number, array or tensor: equal ones are the same in type, shape and bytes."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    head = f"{type(value).__name__} {array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def owned(value: Any) -> Any:
    """Copy the arrays of a state: torch's own ``state_dict`` gives memory that the next update changes."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {k: owned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        copies = [owned(v) for v in value]
        return tuple(copies) if isinstance(value, tuple) else copies
    return value


def restore_state(owner: object, state: Mapping[str, Any], skip: tuple[str, ...] = ()) -> None:
    """Load what :func:`gather_state` returned; KeyError names an attribute that is missing."""
    for name, value in stateful(owner, skip):
        if isinstance(value, torch.Generator):
            value.set_state(state[name])
        elif isinstance(value, nn.Module):
            _load_module(name, value, state[name])
        elif callable(getattr(value, "load_state_dict", None)) and callable(getattr(value, "state_dict", None)):
            value.load_state_dict(owned(state[name]))


def _load_module(name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a network, whose own method would cast numbers of another type without a word."""
    for key, own in module.state_dict().items():
        saved = state.get(key)
        if isinstance(saved, Tensor) and isinstance(own, Tensor) and saved.dtype != own.dtype:
            raise ValueError(f"{name}.{key} has dtype {saved.dtype}, must be {own.dtype}")
    module.load_state_dict(dict(state))


class Learner:
    """Base of the update rules: networks, targets, optimizers and temperature, and nothing else.

    A subclass implements ``update(batch, generator) -> metrics`` and ``act(obs, deterministic, generator)``. Its state
    is every attribute that has one.
    """

    def __init__(self) -> None:
        self.n_updates = 0

    def networks(self) -> Iterator[nn.Module]:
        """Yield the networks that are trained, targets left out."""
        for _, value in stateful(self):
            if isinstance(value, nn.Module) and any(p.requires_grad for p in value.parameters()):
                yield value

    def state_dict(self) -> dict[str, Any]:
        return {**gather_state(self), "n_updates": self.n_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restore_state(self, state)
        self.n_updates = int(state["n_updates"])


@contextmanager
def training_mode(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Put networks into training mode (dropout, batch statistics) and back into evaluation mode."""
    chosen = list(networks)
    for network in chosen:
        network.train()
    try:
        yield
    finally:
        for network in chosen:
            network.eval()
