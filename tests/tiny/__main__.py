import sys
from pathlib import Path

from tests.tiny import CASES, make_tiny

for name in CASES:
    make_tiny(name, Path(sys.argv[1]) / name)
