"""Golden vectors: one tensor of each dtype, and what each codec makes of it, from the reference.

``python tests/codecs_golden.py`` writes tests/data/codecs_golden.npz: ``input/DTYPE`` holds bit
patterns [66, 1, 80], ``blob/CODEC/KIND/DTYPE`` a blob with seed 7, ``values/CODEC/KIND/DTYPE`` the
SHA-256 of the bit patterns it decodes to. Kinds that a codec treats alike appear once, as "key".
Every implementation, on whatever device, is compared with this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from codec_reference import CODECS, DTYPES, blob
from codecs_inputs import values, with_escapes

PATH = Path(__file__).parent / "data" / "codecs_golden.npz"
SHAPE = (66, 1, 80)
SEED = 7


def tensor(dtype: str) -> npt.NDArray[Any]:
    """Ordinary tokens, and some of every kind that is not."""
    x = values("outliers", SHAPE, dtype, 1)
    for token, kind in enumerate(("subnormal", "tiny", "huge", "constant", "zeros", "steps")):
        x[3 * token] = values(kind, SHAPE, dtype, 2)[0]
    x[64:] = values("wide", SHAPE, dtype, 3)[64:]
    return with_escapes(x, dtype, 3, 4)


def cases() -> Iterator[tuple[str, str, str]]:
    for codec, (_, key, value) in CODECS.items():
        for kind in ("key",) if key == value else ("key", "value"):
            for dtype in DTYPES:
                yield codec, kind, dtype


def main() -> None:
    vectors = {f"input/{dtype}": tensor(dtype) for dtype in DTYPES}
    for codec, kind, dtype in cases():
        data, decoded = blob(tensor(dtype), dtype, codec, kind, seed=SEED)
        digest = hashlib.sha256(decoded.tobytes()).digest()
        vectors[f"blob/{codec}/{kind}/{dtype}"] = np.frombuffer(data, np.uint8)
        vectors[f"values/{codec}/{kind}/{dtype}"] = np.frombuffer(digest, np.uint8)
    np.savez_compressed(PATH, allow_pickle=False, **vectors)


if __name__ == "__main__":
    main()
