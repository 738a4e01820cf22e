"""`python -m adjax` is `adjax`."""

from __future__ import annotations

import sys

from adjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
