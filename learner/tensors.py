"""States as torch tensors: name -> float32 tensor, to and from their canonical bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from learner import canonical
from learner.canonical import Field
from learner.errors import Diverged, InvalidState
from learner.manifest import Manifest

if sys.byteorder != "little":
    raise ImportError("canonical bytes are little-endian and so must this machine be")

State = dict[str, Tensor]

_MINUS_ZERO = -(2**31)  # its bits, read as int32


def encode_state(state: Mapping[str, Tensor], bits: int) -> bytes:
    """The canonical bytes of float32 tensors on any device; minus zero becomes plus zero.

    Raises:
        Diverged: a tensor has a NaN or an infinity.
    """
    parts: list[tuple[Field, bytearray]] = []
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Diverged(f"{name} has a number that is not finite")
        field = Field(name, tuple(tensor.shape))
        raw = bytearray(field.nbytes)
        torch.frombuffer(raw, dtype=torch.float32).view(tensor.shape).copy_(tensor + 0.0)  # -0.0 + 0.0 is 0.0
        parts.append((field, raw))
    return canonical.join(bits, parts)


def decode_state(data: bytes, manifest: Manifest) -> State:
    """The state that `data` says, on the CPU.

    Raises:
        InvalidState: not canonical bytes, or not of this manifest's tensors and number of bits.
    """
    bits, parts = canonical.split(data)
    if bits != manifest.bits:
        raise InvalidState(f"state: made with {bits} bits, the manifest asks for {manifest.bits}")
    expected = sorted(manifest.state_fields(), key=lambda field: field.name)
    if [field for field, _ in parts] != expected:
        raise InvalidState("state: not the tensors that the manifest describes")
    return {field.name: _values(field, raw) for field, raw in parts}


def decode_parameters(data: bytes, manifest: Manifest) -> State:
    """The parameters of a state that may come from another job with the same layers, on the CPU.

    Raises:
        InvalidState: not canonical bytes, or a parameter of the model is missing or has another shape.
    """
    _, parts = canonical.split(data)
    found = {field.name: (field, raw) for field, raw in parts}
    state: State = {}
    for field in manifest.model.parameters():
        name = f"parameter/{field.name}"
        if name not in found:
            raise InvalidState(f"state: no tensor {name}, which the model needs")
        given, raw = found[name]
        if given.shape != field.shape:
            raise InvalidState(f"state: {name} has the shape {list(given.shape)}, the model needs {list(field.shape)}")
        state[name] = _values(given, raw)
    others = [name for name in found if name.startswith("parameter/") and name not in state]
    if others:
        raise InvalidState(f"state: {others[0]} is no parameter of the model")
    return state


def _values(field: Field, raw: memoryview) -> Tensor:
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(field.shape)
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidState(f"state: {field.name} has a number that is not finite")
    if bool((tensor.view(torch.int32) == _MINUS_ZERO).any()):
        raise InvalidState(f"state: {field.name} has a minus zero")
    return tensor
