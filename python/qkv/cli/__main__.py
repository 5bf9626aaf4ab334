"""`python -m qkv.cli` is `qkv`."""

import sys

from qkv.cli import main

sys.exit(main())
