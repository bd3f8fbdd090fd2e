"""From the original's caches and settings to this version's, and back byte for byte."""

from blatam_kv.migrate.found import Found, Version, look
from blatam_kv.migrate.steps import Migration, down, status, up

__all__ = ["Found", "Migration", "Version", "down", "look", "status", "up"]
