"""What kind of file system a folder is on."""

from __future__ import annotations

import re
from pathlib import Path

# Where locks may be advisory among machines only, or missing, and a file's bytes may change behind
# the page cache. By the names that /proc/self/mountinfo has for them.
NETWORK = frozenset(
    """9p afs beegfs ceph cifs fuse.ceph fuse.cephfs fuse.gcsfuse fuse.glusterfs fuse.s3fs fuse.sshfs
    glusterfs gpfs lustre ncpfs nfs nfs4 orangefs pvfs2 smb2 smb3 smbfs""".split()
)
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


def network_kind(path: Path, mounts: str | None = None) -> str:
    """The kind of network file system under a path; "" for a local one or where nobody can say.

    mounts: text of /proc/self/mountinfo, for tests.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="surrogateescape")
        except OSError:
            return ""
    parts = path.absolute().parts
    deepest, kind = 0, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        under = Path(point).parts
        # Of two mounts at one point the later one is on top.
        if len(under) >= deepest and parts[: len(under)] == under:
            deepest, kind = len(under), rest[0]
    return kind if kind in NETWORK else ""
