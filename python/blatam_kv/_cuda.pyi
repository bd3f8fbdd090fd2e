from typing import Any

import numpy.typing as npt

from blatam_kv._core import Bus as Bus
from blatam_kv._core import DevicePiece as DevicePiece
from blatam_kv._core import Mark as Mark

architectures: str
CUDA_ERROR: int

def text(code: int) -> str: ...
def versions() -> tuple[int, int, int]: ...
def device_count() -> tuple[int, int]: ...
def run(
    store: bool,
    device: int,
    stream: int,
    scheme: int,
    element: int,
    shape: tuple[int, int, int],
    cache: tuple[int, int, int],
    strides: tuple[int, int, int, int],
    seed: int,
    blocks: int,
    tensors: npt.NDArray[Any],
    memory: tuple[int, int, int, int],
    block_stride: int,
    payload_room: int,
) -> int: ...
def run_chains(
    device: int,
    stream: int,
    state: bytes,
    counter: int,
    types: tuple[int, int],
    memory: tuple[int, int, int, int, int, int],
    ids_count: int,
    rows: tuple[int, int],
    sequences: int,
    block_tokens: int,
    parent: bytes,
    room: int,
) -> int: ...
def open_bus(
    device: int, pool_bytes: int, buffers: int, buffer_bytes: int
) -> tuple[int, Bus | None]: ...
