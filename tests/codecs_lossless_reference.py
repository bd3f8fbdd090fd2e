"""``exp4`` and ``exp_huff`` of docs/LOSSLESS.md, slow and obvious: both directions, value by value.

Nothing here shares a trick with the kernels: bits are strings, codes are found by walking them, the
shortest code comes from package-merge over lists of symbols instead of bits that remember an order.
Each codec is a pair of functions between a flat array of patterns (uint16, or uint32 for float32)
and a payload; the decoders raise ``ValueError`` for what no encoder writes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHUNK = 1024
BLOCK = 65536
ESCAPE = 15
RAW_CHUNK = 0xFFFF
LONGEST = 11
STREAMS = 8
RAW, CONSTANT, CODED = 0, 1, 2


def planes_of(x: Array) -> list[list[int]]:
    """The bytes of values: eight bits from the exponent down, sign and seven more, the rest."""
    width = x.dtype.itemsize
    patterns = [int(v) for v in x]
    upper = [v >> 16 for v in patterns] if width == 4 else patterns
    planes = [[v >> 7 & 255 for v in upper], [v >> 15 << 7 | v & 127 for v in upper]]
    if width == 4:
        planes += [[v >> 8 & 255 for v in patterns], [v & 255 for v in patterns]]
    return planes


def from_planes(planes: list[list[int]]) -> Array:
    upper = [s >> 7 << 15 | t << 7 | s & 127 for t, s in zip(planes[0], planes[1], strict=True)]
    if len(planes) == 2:
        return np.array(upper, np.uint16)
    rows = zip(upper, planes[2], planes[3], strict=True)
    return np.array([u << 16 | a << 8 | b for u, a, b in rows], np.uint32)


class Reader:
    """Bytes from the front; ValueError where there are none left."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError("cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError("bytes left over")


# ---- exp4 ---------------------------------------------------------------------------------------


def pack_block(fields: list[int], bits: int) -> bytes:
    """At most 64 fields of 4 or 7 bits; a short block is cut from a full one padded with zeros."""
    size = {4: 32, 7: 56}[bits]
    full = fields + [0] * (64 - len(fields))
    packed = []
    for i in range(size):
        if bits == 4:
            packed.append(full[i] | full[i + 32] << 4)
        else:
            packed.append(full[i] | (full[56 + i % 8] >> i // 8 & 1) << 7)
    return bytes(packed[: min(len(fields), size)])


def unpack_block(data: bytes, count: int, bits: int) -> list[int]:
    size = {4: 32, 7: 56}[bits]
    data = data + bytes(size - len(data))
    if bits == 4:
        fields = [b & 15 for b in data] + [b >> 4 for b in data]
    else:
        fields = [b & 127 for b in data]
        fields += [sum((data[8 * g + k] >> 7) << g for g in range(7)) for k in range(8)]
    if any(fields[count:]):
        raise ValueError("padding")
    return fields[:count]


def code_bytes(count: int, bits: int) -> int:
    size = {4: 32, 7: 56}[bits]
    return count // 64 * size + min(count % 64, size)


def exponents(tops: list[int], half: bool) -> list[int]:
    return [t >> 3 for t in tops] if half else tops


def exp4_encode(x: Array, dtype: str) -> bytes:
    half = dtype == "float16"
    bits = 7 if half else 4
    tails = 0
    if dtype == "float32":
        tails = 2 if (x & 255).any() else 1 if (x & 0xFF00).any() else 0
    lines, bodies, escapes = b"", b"", b""
    for start in range(0, len(x), CHUNK):
        planes = planes_of(x[start : start + CHUNK])
        tops, rests = planes[0], planes[1]
        exps = exponents(tops, half)
        largest = max(exps)
        codes = [min(largest - e, ESCAPE) for e in exps]
        fields = [c << 3 | t & 7 for c, t in zip(codes, tops, strict=True)] if half else codes
        found = [(i, exps[i]) for i, c in enumerate(codes) if c == ESCAPE]
        size = code_bytes(len(tops), bits)
        if 3 * len(found) > len(tops) - size:
            lines += struct.pack("<BH", largest, RAW_CHUNK)
            bodies += bytes(tops[:size])
            escapes += bytes(tops[size:])
        else:
            lines += struct.pack("<BH", largest, len(found))
            for i in range(0, len(fields), 64):
                bodies += pack_block(fields[i : i + 64], bits)
            escapes += b"".join(struct.pack("<HB", *escape) for escape in found)
        bodies += bytes(rests)
        if tails == 2:  # the two bytes of a value side by side, the lower one first
            bodies += x[start : start + CHUNK].astype("<u2").tobytes()
        elif tails == 1:
            bodies += bytes(planes[2])
    return bytes([tails]) + lines + bodies + escapes


def exp4_decode(payload: bytes, count: int, dtype: str) -> Array:
    half = dtype == "float16"
    bits = 7 if half else 4
    reader = Reader(payload)
    tails = reader.take(1)[0]
    if tails > (2 if dtype == "float32" else 0):
        raise ValueError("tail")
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    lines = [struct.unpack("<BH", reader.take(3)) for _ in sizes]
    bodies = []
    for size in sizes:
        codes = reader.take(code_bytes(size, bits))
        bodies.append((codes, reader.take(size), reader.take(size * tails)))
    decoded = []
    for size, (largest, stored), (codes, rests, tail) in zip(sizes, lines, bodies, strict=True):
        if stored == RAW_CHUNK:
            tops = list(codes + reader.take(size - len(codes)))
        else:
            if 3 * stored > size - len(codes):
                raise ValueError("too many escapes")
            step = 32 if bits == 4 else 56
            fields: list[int] = []
            for i in range(0, size, 64):
                part = codes[i // 64 * step : (i // 64 + 1) * step]
                fields += unpack_block(part, min(64, size - i), bits)
            places = [i for i, f in enumerate(fields) if (f >> 3 if half else f) == ESCAPE]
            found = [struct.unpack("<HB", reader.take(3)) for _ in range(stored)]
            if places != [place for place, _ in found]:
                raise ValueError("escapes do not match codes")
            exps = [largest - (f >> 3 if half else f) for f in fields]
            for place, exponent in found:
                if exponent > (31 if half else 255):
                    raise ValueError("exponent")
                exps[place] = exponent
            if half:
                tops = [(e & 31) << 3 | f & 7 for e, f in zip(exps, fields, strict=True)]
            else:
                tops = [e & 255 for e in exps]
        planes = [tops, list(rests)]
        if dtype == "float32":
            low = tail if tails == 2 else b"".join(bytes([0, b]) for b in tail) or bytes(2 * size)
            planes += [list(low[1::2]), list(low[::2])]
        decoded.append(from_planes(planes))
    reader.end()
    return np.concatenate([*decoded, np.zeros(0, np.uint32 if dtype == "float32" else np.uint16)])


# ---- exp_huff -----------------------------------------------------------------------------------


def code_lengths(counts: dict[int, int]) -> dict[int, int]:
    """Package-merge: the cheapest 2 n - 2 of coins and pairs; of equals a coin comes first."""
    coins = sorted((count, symbol) for symbol, count in counts.items())
    items: list[tuple[int, list[int]]] = []
    for _ in range(LONGEST):
        pairs = [
            (items[i][0] + items[i + 1][0], items[i][1] + items[i + 1][1])
            for i in range(0, len(items) - 1, 2)
        ]
        singles = [(count, [symbol]) for count, symbol in coins]
        items = sorted(singles + pairs, key=lambda item: item[0])  # stable: singles before pairs
    lengths = dict.fromkeys(counts, 0)
    for _, symbols in items[: 2 * len(coins) - 2]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def canonical(lengths: dict[int, int]) -> dict[int, str]:
    """Codes as strings of bits, the first bit first."""
    codes, code, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code <<= length - before
        codes[symbol] = format(code, f"0{length}b")
        code, before = code + 1, length
    return codes


def bits_to_bytes(bits: str) -> bytes:
    """The first bit is the lowest of the first byte."""
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def pieces(count: int) -> list[tuple[int, int]]:
    size = -(-count // STREAMS)
    return [(min(s * size, count), min((s + 1) * size, count)) for s in range(STREAMS)]


def promising(plane: list[int]) -> bool:
    drawn = [s for i in range(0, len(plane), 1024) for s in plane[i : i + 64]]
    counts: list[int] = np.bincount(drawn, minlength=256).tolist()
    return sum(n * n - n for n in counts) * 1024 > 5 * len(drawn) ** 2


def encode_plane(plane: list[int], number: int) -> bytes:
    count = len(plane)
    if min(plane) == max(plane):
        return bytes([CONSTANT, plane[0]])
    raw = bytes([RAW]) + bytes(plane)
    if count < 256 or (number > 0 and not promising(plane)):
        return raw
    symbols, numbers = np.unique(plane, return_counts=True)
    counts = dict(zip(symbols.tolist(), numbers.tolist(), strict=True))
    lengths = code_lengths(counts)
    first, last = min(lengths), max(lengths)
    nibbles = [lengths.get(symbol, 0) for symbol in range(first, last + 1)]
    nibbles += [0] * (len(nibbles) % 2)
    described = bytes([CODED, first, last])
    described += bytes(a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
    total = sum(counts[s] * lengths[s] for s in counts)
    if len(described) + 2 * STREAMS + total // 8 + STREAMS + count // 32 > count:
        return raw
    codes = canonical(lengths)
    streams = [bits_to_bytes("".join(codes[s] for s in plane[a:b])) for a, b in pieces(count)]
    return described + struct.pack("<8H", *map(len, streams)) + b"".join(streams)


def decode_plane(reader: Reader, count: int) -> list[int]:
    form = reader.take(1)[0]
    if form == RAW:
        return list(reader.take(count))
    if form == CONSTANT:
        return list(reader.take(1)) * count
    if form != CODED or count < 256:
        raise ValueError("form")
    first, last = reader.take(2)
    if first >= last:
        raise ValueError("ends")
    packed = reader.take((last - first + 2) // 2)
    nibbles = [n for byte in packed for n in (byte & 15, byte >> 4)]
    lengths = {first + i: n for i, n in enumerate(nibbles) if n}
    if nibbles[last - first + 1 :] not in ([], [0]) or not {first, last} <= set(lengths):
        raise ValueError("lengths")
    if max(nibbles) > LONGEST or sum(2 ** (LONGEST - n) for n in lengths.values()) != 2**LONGEST:
        raise ValueError("not a complete code")
    symbol_of = {code: symbol for symbol, code in canonical(lengths).items()}
    sizes = struct.unpack("<8H", reader.take(16))
    streams = [reader.take(size) for size in sizes]
    plane: list[int] = []
    for (begin, end), stream in zip(pieces(count), streams, strict=True):
        bits = "".join(format(byte, "08b")[::-1] for byte in stream)
        at = 0
        for _ in range(end - begin):
            length = 1
            while bits[at : at + length] not in symbol_of:
                length += 1
                if at + length > len(bits):
                    raise ValueError("stream cut short")
            plane.append(symbol_of[bits[at : at + length]])
            at += length
        if len(bits) - at >= 8 or "1" in bits[at:]:
            raise ValueError("stream too long")
    return plane


def exp_huff_encode(x: Array, dtype: str) -> bytes:
    blocks = []
    for start in range(0, len(x), BLOCK):
        planes = planes_of(x[start : start + BLOCK])
        blocks.append(b"".join(encode_plane(plane, p) for p, plane in enumerate(planes)))
    return struct.pack(f"<{len(blocks)}I", *map(len, blocks)) + b"".join(blocks)


def exp_huff_decode(payload: bytes, count: int, dtype: str) -> Array:
    patterns = np.uint32 if dtype == "float32" else np.uint16
    reader = Reader(payload)
    starts = range(0, count, BLOCK)
    sizes = struct.unpack(f"<{len(starts)}I", reader.take(4 * len(starts)))
    decoded = [np.zeros(0, patterns)]
    for start, size in zip(starts, sizes, strict=True):
        block = Reader(reader.take(size))
        planes = [
            decode_plane(block, min(BLOCK, count - start)) for _ in range(patterns().itemsize)
        ]
        block.end()
        decoded.append(from_planes(planes))
    reader.end()
    return np.concatenate(decoded)


CODECS = {"exp4": (exp4_encode, exp4_decode), "exp_huff": (exp_huff_encode, exp_huff_decode)}
