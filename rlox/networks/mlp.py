"""The multilayer perceptron, alone or as an ensemble: the layer that all networks of rlox are made of.

All parameters of one :class:`MLP` lie in one flat buffer, each on a boundary of 64 bytes, and their gradients in a
second one of the same layout. Adam, Polyak averaging and gradient norms are then one call on one tensor. An ensemble of
E networks computes with batched products. What is saved are the names and shapes of plain linear modules.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ALIGN = 16  # floats: 64 bytes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "tanh": torch.tanh, "elu": F.elu, "silu": F.silu,
}  # fmt: skip

Layout = list[tuple[str, tuple[int, ...], int, int]]


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Parameters
    ----------
    sizes : sequence of int
        Widths from input to output, e.g. ``[17, 256, 256, 6]``.
    ensemble : int, optional
        E independent networks of this shape; the output is then (E, B, out). None: one network, output (B, out).
    activation : {"relu", "tanh", "elu", "silu"}
    layer_norm : bool
        LayerNorm (eps 1e-5, with scale and shift) after each hidden linear layer, before the activation.
    dropout : float
        Share of hidden units dropped in training mode, after the activation; draws from torch's global generator.

    Notes
    -----
    Initial values are those of ``torch.nn.Linear``: uniform in ±1/√fan_in, for weights and biases, drawn from torch's
    global generator. ``state_dict`` has ``layers.<i>.weight`` (out, in) and ``layers.<i>.bias`` (out,), and
    ``norms.<i>.weight``, ``norms.<i>.bias``; in an ensemble with the prefix ``members.<e>.``.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        ensemble: int | None = None,
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes is {list(sizes)}, must be at least two positive widths")
        if ensemble is not None and ensemble < 1:
            raise ValueError(f"ensemble is {ensemble}, must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, must be one of {', '.join(ACTIVATIONS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, must be in [0, 1)")
        self.sizes = tuple(int(s) for s in sizes)
        self.ensemble = ensemble
        self.activation = activation
        self.layer_norm = layer_norm
        self.dropout = dropout
        self._act = ACTIVATIONS[activation]
        self._layout = _layout(self.sizes, ensemble or 1, layer_norm)
        self.flat = nn.Parameter(torch.zeros(self._layout[-1][3]))
        self._make_views()
        self.reset_parameters()

    def flat_parameters(self) -> Tensor:
        """Return the one leaf tensor that holds every parameter, padding included; its ``grad`` is laid out alike."""
        return self.flat

    def named_views(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, view) of each plain parameter inside a tensor laid out like ``flat_parameters()``."""
        for name, shape, start, _ in self._layout:
            block = flat[start : start + math.prod(shape)].view(shape)  # (E, in, out) or (E, width)
            for e in range(shape[0]):
                prefix = "" if self.ensemble is None else f"members.{e}."
                is_matrix = name.startswith("layers") and name.endswith("weight")
                yield prefix + name, block[e].t() if is_matrix else block[e].view(-1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new initial values from torch's global generator."""
        self.flat.zero_()
        for name, shape, _, _ in self._layout:
            block = self._views[name]
            if name.startswith("norms"):
                block.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            fan_in = self.sizes[int(name.split(".")[1])]
            for e in range(shape[0]):
                block[e].uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out), or (B, in) or (E, B, in) to (E, B, out) in an ensemble."""
        params = self._split()
        last = len(self.sizes) - 2
        if self.ensemble is not None and x.dim() == 2:
            x = x.expand(self.ensemble, *x.shape)
        for i in range(last + 1):
            weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]  # (E, in, out), (E, 1, out)
            x = torch.addmm(bias[0, 0], x, weight[0]) if self.ensemble is None else torch.baddbmm(bias, x, weight)
            if i == last:
                return x
            if self.layer_norm:
                scale, shift = params[f"norms.{i}.weight"], params[f"norms.{i}.bias"]
                x = F.layer_norm(x, (self.sizes[i + 1],))
                x = x * scale[0, 0] + shift[0, 0] if self.ensemble is None else x * scale + shift
            x = self._act(x)
            if self.dropout and self.training:
                x = F.dropout(x, self.dropout)
        return x

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = memo[id(self)] = type(self).__new__(type(self))
        # The views belong to the flat parameter; copied one by one they would be memory of their own.
        new.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k != "_views"})
        new._make_views()
        return new

    def _split(self) -> dict[str, Tensor]:
        """Return the blocks of the flat parameter as one autograd node, whose backward writes the flat gradient once."""
        if not torch.is_grad_enabled() or not self.flat.requires_grad:
            return self._views
        blocks = _Split.apply(self.flat, self._layout)  # type: ignore[no-untyped-call]
        return dict(zip((entry[0] for entry in self._layout), blocks, strict=True))

    def _make_views(self) -> None:
        data = self.flat.data
        self._views = {name: data[start : start + math.prod(shape)].view(shape) for name, shape, start, _ in self._layout}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MLP:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._make_views()
        return self

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for name, view in self.named_views(self.flat if keep_vars else self.flat.detach()):
            destination[prefix + name] = view

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: object,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = dict(self.named_views(self.flat.detach()))
        for name, view in expected.items():
            value = state_dict.get(prefix + name)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != view.shape:
                error_msgs.append(f"{prefix}{name} has shape {tuple(value.shape)}, must be {tuple(view.shape)}")
            else:
                view.copy_(value)
        if strict:
            known = {prefix + name for name in expected}
            unexpected_keys.extend(k for k in state_dict if k.startswith(prefix) and k not in known)


class _Split(torch.autograd.Function):
    """Views of a flat tensor; the gradients of all views make one flat gradient."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.layout, ctx.total = layout, flat.numel()
        ctx.set_materialize_grads(False)
        return tuple(flat[start : start + math.prod(shape)].view(shape) for _, shape, start, _ in layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None]:
        some = next(g for g in grads if g is not None)
        flat = some.new_zeros(ctx.total)
        for (_, shape, start, _), g in zip(ctx.layout, grads, strict=True):
            if g is not None:
                flat[start : start + math.prod(shape)] = g.reshape(-1)
        return flat, None


def _layout(sizes: Sequence[int], n: int, layer_norm: bool) -> Layout:
    """Return (name, block shape, start, end) for each block, each on a boundary of ALIGN floats."""
    entries: Layout = []
    end = 0
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        blocks: list[tuple[str, tuple[int, ...]]] = [
            (f"layers.{i}.weight", (n, fan_in, fan_out)),
            (f"layers.{i}.bias", (n, 1, fan_out)),
        ]
        if layer_norm and i < len(sizes) - 2:
            blocks += [(f"norms.{i}.weight", (n, 1, fan_out)), (f"norms.{i}.bias", (n, 1, fan_out))]
        for name, shape in blocks:
            start = end
            end = -(-(start + math.prod(shape)) // ALIGN) * ALIGN
            entries.append((name, shape, start, end))
    return entries
