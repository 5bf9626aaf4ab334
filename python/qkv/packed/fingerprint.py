"""Which checkpoint is it?"""

from __future__ import annotations

import json
from collections.abc import Mapping

from qkv import _ext
from qkv.checkpoint import Checkpoint


def fingerprint(checkpoint: Checkpoint, files: Mapping[str, bytes | None], threads: int) -> str:
    """A name for the contents of a checkpoint: its tensors, however cut into shards, and the small `files` of it.

    It reads every tensor once, at the speed of memory where the file is in the page cache."""
    import hashlib  # not above: it loads OpenSSL, which would cost `import qkv` milliseconds

    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(json.dumps([name, None if data is None else hashlib.sha256(data).hexdigest()]).encode())
    for name in checkpoint.names:
        info = checkpoint.tensors[name]
        values = checkpoint.raw(name)
        digest.update(json.dumps([name, info.dtype, info.shape, _ext.checksum(values, threads)]).encode())
        checkpoint.release(name)
    return digest.hexdigest()
