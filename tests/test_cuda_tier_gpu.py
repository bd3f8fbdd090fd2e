"""The GPU tier on a GPU: what test_cuda_tier*.py proves on the host as a device, on a real one.

``./run gpu`` runs this where there is a GPU and torch; elsewhere every test skips.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_blocks import DIM, HEADS, LAYERS, TAGS, TOKENS, Block, DictTier, key_of

from blatam_kv import cuda
from blatam_kv.errors import DeviceTrouble, DeviceUnavailable, InvalidRequest
from blatam_kv.record import Kind, Record
from blatam_kv.tiers.gpu import GpuTier

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    cuda.status().require()
    return torch


def engine(torch: Any, blocks: int = 8) -> tuple[list[Any], cuda.PagedCache]:
    shape = (2, blocks, TOKENS, HEADS, DIM)
    tensors = [torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for _ in range(LAYERS)]
    torch.cuda.synchronize()  # the zeros come on another stream than the tests use
    return tensors, cuda.PagedCache.of(tensors, "vllm_nhd")


def bits(tensors: list[Any], torch: Any, slots: Any) -> Any:
    """[2 × layers, tokens, heads, dim] in some slots, as uint16."""
    flat = [x.view(2, -1, HEADS, DIM)[:, torch.from_numpy(slots).cuda()] for x in tensors]
    return torch.cat(flat).view(torch.int16).cpu().numpy().view(np.uint16)


@pytest.mark.parametrize("codec", cuda.CODECS)
def test_an_engine_gets_what_the_cpu_decodes(torch: Any, codec: str) -> None:
    below = DictTier()
    blocks = [Block.of(number, codec) for number in range(6)]
    slots = np.random.default_rng(1).permutation(8 * TOKENS)[: 6 * TOKENS].reshape(6, TOKENS)
    with GpuTier(below, capacity_bytes=4 << 20, device=0, buffers=2, buffer_bytes=4096) as tier:
        tier.put_many([block.record for block in blocks[:3]])
        below.put_many([block.record for block in blocks[3:]])
        for _ in range(2):
            tensors, cache = engine(torch)
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                keys = [block.record.key for block in blocks]
                with tier.load_layers(keys, cache, slots, stream=stream) as load:
                    for layer in range(LAYERS):
                        assert load.wait(layer) == 6
                        for block, row in zip(blocks, slots, strict=True):
                            expected = block.decoded()[2 * layer : 2 * layer + 2]
                            found = bits([tensors[layer]], torch, row)
                            np.testing.assert_array_equal(found, expected)
                    assert load.finish() == 6
        assert tier.stats().promoted == 3


@pytest.mark.parametrize("codec", ["raw", "int8", "int4_kc", "exp4"])
def test_what_is_encoded_on_the_device_is_what_the_cpu_encodes(torch: Any, codec: str) -> None:
    tensors, cache = engine(torch)
    blocks = [Block.of(number, codec) for number in range(6)]
    slots = np.random.default_rng(1).permutation(8 * TOKENS)[: 6 * TOKENS].reshape(6, TOKENS)
    for layer in range(LAYERS):
        for half, part in enumerate(("keys", "values")):
            for block, row in zip(blocks, slots, strict=True):
                values = torch.from_numpy(getattr(block, part)[layer].view(np.int16)).cuda()
                flat = tensors[layer][half].view(-1, HEADS, DIM)
                flat[torch.from_numpy(row).cuda()] = values.view(torch.bfloat16)
    with GpuTier(DictTier(), capacity_bytes=4 << 20, device=0) as tier:
        stored = tier.save_blocks(
            [block.record.key for block in blocks], cache, slots, codec=codec, tags=TAGS,
            tokens=[bytes(block.record.tokens) for block in blocks],
        )  # fmt: skip
        assert stored == 6
        for block in blocks:
            (record,) = tier.get_many([block.record.key])
            assert record is not None
            assert bytes(record.payload) == block.record.payload


def test_any_sequence_of_puts_gets_and_deletes_is_what_a_dict_says(torch: Any) -> None:
    random = np.random.default_rng(2)
    model: dict[bytes, bytes] = {}
    below = DictTier()
    with GpuTier(below, capacity_bytes=256 << 10, device=0, buffers=2, buffer_bytes=4096) as tier:
        for _ in range(2000):
            key = key_of(int(random.integers(40)))
            action = random.integers(5)
            if action == 0:
                assert tier.delete_many([key]) == (model.pop(key, None) is not None)
            elif action < 3:
                payload = random.bytes(int(random.integers(0, 30000)))
                assert tier.put_many([Record(key, Kind.RESPONSE, payload)]) == 1
                model[key] = payload
            else:
                (record,) = tier.get_many([key])
                assert (None if record is None else bytes(record.payload)) == model.get(key)
        assert tier.stats().spilled > 0
    assert {key: bytes(record.payload) for key, record in below.records.items()} == model


def test_torch_sees_a_lent_payload_and_its_memory_waits_for_torchs_stream(torch: Any) -> None:
    payload = np.random.default_rng(3).bytes(100000)
    with GpuTier(DictTier(), capacity_bytes=256 << 10, device=0) as tier:
        tier.put_many([Record(key_of(0), Kind.RESPONSE, payload)])
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), tier.lend_many([key_of(0)], stream=stream) as (blob,):
            seen = torch.as_tensor(blob, device="cuda")
            torch.cuda._sleep(10_000_000)
            copy = seen.clone()
        for number in range(1, 8):
            tier.put_many([Record(key_of(number), Kind.RESPONSE, bytes(100000))])
        stream.synchronize()
        assert copy.cpu().numpy().tobytes() == payload


def test_more_than_the_device_has_and_a_cache_elsewhere_are_refused(torch: Any) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        GpuTier(DictTier(), capacity_bytes=1 << 44, device=0)
    assert caught.value.reason is DeviceTrouble.OUT_OF_MEMORY
    torch.zeros(8, device="cuda").sum().item()  # and others may go on
    with pytest.raises(DeviceUnavailable):
        GpuTier(DictTier(), capacity_bytes=1 << 20, device=torch.cuda.device_count())
    with GpuTier(DictTier(), capacity_bytes=1 << 20, device=0) as tier:
        host = np.zeros((2, 8, TOKENS, HEADS, DIM), np.float16)
        cache = cuda.PagedCache.of([host], "vllm_nhd")
        with pytest.raises(InvalidRequest, match="on device -1"):
            tier.load_layers([], cache, np.zeros((0, TOKENS), np.int64))
