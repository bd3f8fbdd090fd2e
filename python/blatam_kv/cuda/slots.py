"""Slots that the host names: looked at before anything is queued."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blatam_kv.cuda.layouts import PagedCache
from blatam_kv.errors import InvalidRequest


def checked_slots(slots: Any, cache: PagedCache, *, rows: int) -> npt.NDArray[np.int64]:
    """Slots of some blocks as int64 ``[rows, tokens]``, contiguous.

    Raises InvalidRequest for another shape or type, for a slot that the cache does not have and for
    one that is named twice: two tokens cannot lie in one place.
    """
    try:
        table = np.asarray(slots)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of a device, say
        raise InvalidRequest(f"slots must be on the host: {error}", field="slots") from error
    if table.dtype.kind not in "iu" or table.ndim != 2 or table.shape[0] != rows:
        raise InvalidRequest(
            f"slots are {table.dtype} of the shape {table.shape}; they must be integers, "
            f"({rows}, tokens of a block)",
            field="slots",
        )
    if table.size and not (int(table.min()) >= -1 and int(table.max()) < cache.slots):
        raise InvalidRequest(f"a slot is neither -1 nor below {cache.slots}", field="slots")
    used = table[table >= 0]
    if len(np.unique(used)) != len(used):
        raise InvalidRequest("a slot is named twice", field="slots")
    return np.ascontiguousarray(table, np.int64)
