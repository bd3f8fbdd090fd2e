"""Copies of a store that outlive it: made while it is in use, verified, and put back at once."""

from blatam_kv.backup.create import create, prune
from blatam_kv.backup.folder import Backup, backups
from blatam_kv.backup.restore import restore, restore_tagged, verify
from blatam_kv.backup.sealing import key_from_file

__all__ = [
    "Backup",
    "backups",
    "create",
    "key_from_file",
    "prune",
    "restore",
    "restore_tagged",
    "verify",
]
