"""A server under mixed load: ``python benchmarks/load.py --minutes 10``.

Three models of three sizes, five accelerators, some clients that leave. Half of the time clients ask again as soon as
they are answered, half of it requests come at random times. Every picture is compared with the one drawn alone. Appends
to ``results/load.jsonl``: how many pictures were wrong or lost, percentiles of their seconds, and the server's memory
over time, without requests too: after a minute of load, half way and at the end.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from serving import Served, Tally, Twins, closed, cores, opened, percentiles, served
from store import append, arguments

from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.machine import machine
from stagevar.pipeline import Pipeline
from stagevar.serve.trimming import PAUSE

ACCELERATORS = "none", "stagevar", "drop_last(1)", "guidance_off(2)", "stagevar(quality=0.0)"
LEAVING = 0.1
"""Share of the requests whose client goes after the first partial picture."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--load", type=float, default=0.7, help="rate of the random requests over the measured one")
    options = parser.parse_args()
    half = options.minutes * 30
    with tempfile.TemporaryDirectory() as folder:
        models = ["scenes", *(saved(family, Path(folder)) for family in ("scenes", "var"))]
        pipes = {Path(model).name: Pipeline.from_pretrained(model, device=options.device) for model in models}
        twins = Twins.drawn(pipes, ACCELERATORS, 60)
        with served(models, options.device, "--deadline", "600") as server:
            closed(server.url, twins, options.clients, min(60.0, half / 2))
            idle = [quiet(server)]
            memory = Memory(server)
            first = closed(server.url, twins, options.clients, half, LEAVING)
            idle.append(quiet(server))
            rate = options.load * (len(first.seconds) + first.left) / half
            second = opened(server.url, twins, rate, half, LEAVING)
            highest = memory.stop()
            idle.append(quiet(server))
    report: dict[str, Any] = {**machine(pipes["scenes"].model), "cores": cores(), "minutes": options.minutes}
    report |= {"clients": options.clients, "rate": rate, "closed": told(first), "open": told(second)}
    report["resident_bytes"] = {"quarters": highest, "idle": idle, "growth": idle[-1] / idle[0] - 1}
    print(report)
    append("load", options.device, report, options.out)


def saved(family: str, folder: Path) -> str:
    """A small random model on disk, whose pictures have another size than those of the shipped one."""
    save_model(tiny(family), path := folder / f"small-{family}")
    return str(path)


def told(tally: Tally) -> dict[str, Any]:
    counted = {"pictures": len(tally.seconds), "wrong": tally.wrong, "lost": tally.lost}
    return {**counted, "refused": tally.refused, "left": tally.left, **percentiles(tally.seconds)}


def quiet(server: Served) -> int:
    """The server's memory in bytes, once it had the time to give back what it freed."""
    time.sleep(PAUSE + 5)
    return server.resident()


class Memory:
    """Looks at a server's memory every second."""

    def __init__(self, server: Served) -> None:
        self.seen = [server.resident()]
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.seen.append(self._server.resident())

    def stop(self) -> list[int]:
        """Highest figure of each quarter of the time."""
        self._stop.set()
        self._thread.join()
        parts = [self.seen[i * len(self.seen) // 4 : (i + 1) * len(self.seen) // 4] or self.seen for i in range(4)]
        return [max(part) for part in parts]


if __name__ == "__main__":
    main()
