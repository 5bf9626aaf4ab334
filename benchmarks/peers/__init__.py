"""qkv beside the engines that people use on CPUs, on the same work: `python -m benchmarks.peers.NAME` (see README)."""
