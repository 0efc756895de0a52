"""A served process for benchmarks, and clients that compare every picture with the one drawn alone."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from stagevar.pipeline import Pipeline

PATH = "/v1/images/generations"


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    url: str
    pid: int

    def drawing(self) -> float:
        """Seconds that it has drawn for, all batches together."""
        text = httpx2.get(self.url + "/metrics").text
        return sum(
            float(line.split()[1]) for line in text.splitlines() if line.startswith("stagevar_batch_seconds_sum")
        )

    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


@contextmanager
def served(models: Sequence[str], device: str, *options: str) -> Iterator[Served]:
    """Serve models until the block ends; entered when the server is ready."""
    named = [word for model in models for word in ("--model", model)]
    command = [sys.executable, "-m", "stagevar", "serve", "--port", "0", "--device", device, *named, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r"http://[^/]+", first)
        if found is None:
            raise RuntimeError(f"the server did not start: {first}{process.stderr.read()}")
        rest = threading.Thread(target=lambda: [None for _ in process.stderr or ()])
        rest.start()
        try:
            while httpx2.get(found[0] + "/ready").status_code != 200:
                time.sleep(0.05)
            yield Served(found[0], process.pid)
        finally:
            process.terminate()
            process.wait()
            rest.join()


@dataclass
class Twins:
    """Requests, each with the picture that the pipeline draws alone."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    @classmethod
    def drawn(cls, pipes: Mapping[str, Pipeline], accelerators: Sequence[str], count: int) -> Twins:
        """``count`` requests with models, accelerators and guidance in turn."""
        twins = cls()
        for i in range(count):
            name = list(pipes)[i % len(pipes)]
            pipe, accelerator = pipes[name], accelerators[i // len(pipes) % len(accelerators)]
            body: dict[str, Any] = {"prompt": pipe.model.samples[i % len(pipe.model.samples)], "seed": i}
            body |= {"accelerator": accelerator, "guidance_scale": 1.0 + i % 3}
            image = pipe(**body).images[0]
            twins.bodies.append({**body, "model": name})
            twins.pictures.append(image.tobytes())
        return twins


@dataclass
class Tally:
    """What clients have met.

    Attributes:
        seconds: of each picture that came.
        wrong: pictures that are not their twins.
        lost: requests without an answer, or with an error that no client provoked.
        refused: by a full queue.
        left: streams that the client closed.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, client: httpx2.Client, twins: Twins, which: int, *, leave: bool = False) -> None:
        """One request; with ``leave`` its client goes after the first partial picture."""
        began, body = time.perf_counter(), twins.bodies[which]
        try:
            if leave:
                with client.stream("POST", PATH, json={**body, "stream": True, "preview_scales": [0]}) as events:
                    next(events.iter_bytes(), b"")
                with self.lock:
                    self.left += 1
                return
            answer = client.post(PATH, json=body)
        except httpx2.HTTPError:
            with self.lock:
                self.lost += 1
            return
        spent = time.perf_counter() - began
        with self.lock:
            if answer.status_code == 429:
                self.refused += 1
            elif answer.status_code != 200:
                self.lost += 1
            else:
                self.seconds.append(spent)
                self.wrong += pixels(answer.json()["data"][0]["b64_json"]) != twins.pictures[which]


def pixels(text: str) -> bytes:
    with Image.open(BytesIO(b64decode(text))) as image:
        return image.convert("RGB").tobytes()


def closed(url: str, twins: Twins, clients: int, seconds: float, leaving: float = 0.0) -> Tally:
    """Clients that each ask again as soon as they are answered; a share of requests is left behind."""
    tally, until = Tally(), time.perf_counter() + seconds

    def one(number: int) -> None:
        rng = random.Random(number)
        with httpx2.Client(base_url=url, timeout=300) as client:
            while time.perf_counter() < until:
                tally.ask(client, twins, rng.randrange(len(twins.bodies)), leave=rng.random() < leaving)

    together([threading.Thread(target=one, args=(number,)) for number in range(clients)])
    return tally


def opened(url: str, twins: Twins, rate: float, seconds: float, leaving: float = 0.0) -> Tally:
    """Requests that come at random times, ``rate`` of them a second, whether earlier ones are answered or not."""
    tally, rng, until, threads = Tally(), random.Random(0), time.perf_counter() + seconds, list[threading.Thread]()

    def one(which: int, leave: bool) -> None:
        with httpx2.Client(base_url=url, timeout=300) as client:
            tally.ask(client, twins, which, leave=leave)

    while time.perf_counter() < until:
        thread = threading.Thread(target=one, args=(rng.randrange(len(twins.bodies)), rng.random() < leaving))
        thread.start()
        threads.append(thread)
        time.sleep(rng.expovariate(rate))
    for thread in threads:
        thread.join()
    return tally


def together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentile, by nearest rank."""
    ordered = sorted(seconds)
    return {f"p{share}": ordered[max(0, -(-share * len(ordered) // 100) - 1)] for share in (50, 95, 99)}


def cores() -> int:
    return len(os.sched_getaffinity(0))
