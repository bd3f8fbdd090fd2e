"""Blocks of an engine's paged cache to payloads and back, on the GPU or on the host.

``PagedCache`` describes where an engine keeps its keys and values, in any layout; ``Arrangement``
lays the payloads of some tokens out in one piece of memory; ``store`` gathers, quantises and packs
them there in one launch, ``fetch`` does the opposite. On a device neither waits, allocates or
copies:
what they are given is device memory and a stream. Where a device or a kernel is missing the host's
codecs do the same, bit for bit (``route`` says who does it). ``Arrangement.seal`` and ``unseal`` turn
payloads that have reached the host into the blobs of ``blatam_kv.codecs``, and back, bit for bit
what ``quantize`` writes. ``chain_digests`` names blocks where their tokens are. ``status`` says what
there is to run on.

docs/CUDA.md shows all of it together.
"""

from blatam_kv.cuda.arrangement import CODECS, Arrangement
from blatam_kv.cuda.chains import chain_digests, check_chained
from blatam_kv.cuda.layouts import LAYOUTS, Kind, PagedCache
from blatam_kv.cuda.probe import Status, status
from blatam_kv.cuda.transfer import Route, fetch, route, store

__all__ = [
    "CODECS",
    "LAYOUTS",
    "Arrangement",
    "Kind",
    "PagedCache",
    "Route",
    "Status",
    "chain_digests",
    "check_chained",
    "fetch",
    "route",
    "status",
    "store",
]
