"""Settings of the service: defaults, then the file, then the environment, then the command line.

One rule names a setting everywhere: the environment variable ``BUL_API_PORT`` is ``api_port`` in
the section ``bul`` of the file, ``KV_CACHE_STRATEGY`` is ``strategy`` in the section ``kv_cache``.
A name that nobody knows is an error with a suggestion. So is a name of the original system that
has no effect here yet: a switch that does nothing would be a lie.
"""

from blatam_kv.config.readers import did_you_mean
from blatam_kv.config.settings import (
    LOCAL_DTYPES,
    LOG_LEVELS,
    MODELS,
    STRATEGIES,
    Secret,
    Settings,
    default_data_dir,
)
from blatam_kv.config.sources import described, load, parse_file
from blatam_kv.config.variables import VARIABLES

__all__ = [
    "LOCAL_DTYPES",
    "LOG_LEVELS",
    "MODELS",
    "STRATEGIES",
    "VARIABLES",
    "Secret",
    "Settings",
    "default_data_dir",
    "described",
    "did_you_mean",
    "load",
    "parse_file",
]
