"""A process that holds one engine and does what it is told, so that engines never share a process.

Thread pools of different libraries in one process take cores from each other, as their threads stay awake after their
work; and an engine's memory can only be read where nothing else is loaded. Here every engine has a process of its
own, and the benchmark tells one at a time to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.timing import turn

# OpenBLAS would choose other kernels and blocks than its own best guess.
_UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class Worker:
    """A running process with `benchmarks.peers.engines.ENGINE(**options)` in it. Its clock is the time that passes,
    or with `cpu_time` what the process spends on a core.

    Raises:
        RuntimeError: the engine could not be opened; the message says why.
    """

    def __init__(self, engine: str, *, threads: int, cpu_time: bool = False, **options: Any) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))  # Rayon: tokenizers
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.worker", str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.name = engine
        self._clock = time.process_time if cpu_time else time.perf_counter
        try:
            self.about: str = self._ask("open", engine, {**options, "threads": threads})
        except RuntimeError:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """What the engine's method returns."""
        return self._ask("call", method, arguments)

    def time(self, method: str, *arguments: Any) -> float:
        """Seconds of one call of the engine's method, measured in the process once it has run a while."""
        return float(self._ask("time", method, (self._clock, *arguments)))

    def peak_memory(self) -> int:
        """Bytes: the most memory that the process has held so far."""
        return int(self._ask("memory", "", ()))

    def close(self) -> None:
        self._pipe.close()
        self._process.wait()

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            ok, answer = self._pipe.recv()
        except (EOFError, BrokenPipeError) as error:
            raise RuntimeError(f"{self.name}: its process ended with status {self._process.wait()}") from error
        if not ok:
            raise RuntimeError(f"{self.name}: {answer}")
        return answer


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    engine: Any = None
    while True:
        try:
            kind, name, arguments = pipe.recv()
        except EOFError:  # the benchmark closed its end
            return
        try:
            if kind == "open":
                from benchmarks.peers import engines

                engine = getattr(engines, name)(**arguments)
                answer = engine.about
            elif kind == "call":
                answer = getattr(engine, name)(*arguments)
            elif kind == "time":
                clock, *arguments = arguments
                answer = turn(partial(getattr(engine, name), *arguments), clock)
            else:
                answer = _peak_memory()
        except Exception:
            pipe.send((False, traceback.format_exc()))
        else:
            pipe.send((True, answer))


def _peak_memory() -> int:
    """VmHWM, in bytes. `getrusage` would count what the parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
