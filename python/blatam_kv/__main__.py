"""``python -m blatam_kv`` is ``blatam-kv``."""

import sys

from blatam_kv.cli import main

if __name__ == "__main__":
    sys.exit(main())
