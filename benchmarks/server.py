"""The server's own cost, and what sharing batches brings: ``python benchmarks/server.py``.

Times the shipped model in one process and through the server in turn, a stream's first partial picture, and clients
that each ask again as soon as they are answered, of a server with batches and of one that draws picture by picture.
Appends to ``results/server.jsonl``. Every picture is compared with the one drawn alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx2
from serving import PATH, Served, Twins, closed, cores, percentiles, served
from store import append, arguments

from stagevar.machine import machine
from stagevar.pipeline import Pipeline


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--accelerators", nargs="+", default=["none", "stagevar", "drop_last(3)"])
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained("scenes", device=options.device)
    twins = {name: Twins.drawn({"scenes": pipe}, [name], 4) for name in options.accelerators}
    report: dict[str, Any] = {**machine(pipe.model), "cores": cores(), "clients": options.clients}
    rates: dict[str, list[dict[str, Any]]] = {name: [] for name in twins}
    for batch in (16, 1):
        with served(["scenes"], options.device, "--batch-size", str(batch)) as server:
            if batch > 1:
                plain = twins[options.accelerators[0]]
                report |= alone(pipe, server, plain, options.repeats) | partial(server, plain, options.repeats)
            for name, own in twins.items():
                rates[name].append(rate(server, own, options.clients, options.seconds))
                print(name, batch, rates[name][-1], flush=True)
    rows = [{"accelerator": name, "batched": both[0], "one_by_one": both[1]} for name, both in rates.items()]
    append("server", options.device, report | {"rows": rows}, options.out)


def alone(pipe: Pipeline, server: Served, twins: Twins, repeats: int) -> dict[str, Any]:
    """Seconds of a picture in the process and through the server, in turn, and how many of these the server spends on
    anything but drawing, by its own count."""
    body = twins.bodies[0]
    settings = {name: body[name] for name in ("prompt", "seed", "accelerator", "guidance_scale")}
    process, through, beside = list[float](), list[float](), list[float]()
    with httpx2.Client(base_url=server.url, timeout=300) as client:
        for turn in range(repeats + 1):
            spent, before = timed(lambda: pipe(**settings)), server.drawing() if turn else 0.0
            whole = timed(lambda: client.post(PATH, json=body).raise_for_status())
            if turn:  # the first one warms up
                process.append(spent)
                through.append(whole)
                beside.append(whole - (server.drawing() - before))
    named = {"process_seconds": process, "server_seconds": through, "beside_seconds": beside}
    return {name: spread(values) for name, values in named.items()}


def partial(server: Served, twins: Twins, repeats: int) -> dict[str, Any]:
    """When the first partial picture of a stream comes, as a share of the time of all of it."""
    shares = []
    with httpx2.Client(base_url=server.url, timeout=300) as client:
        for _ in range(repeats):
            began, arrived = time.perf_counter(), list[float]()
            body = {**twins.bodies[0], "stream": True, "partial_images": 1}
            with client.stream("POST", PATH, json=body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        arrived.append(time.perf_counter() - began)
            first, last = arrived
            shares.append(first / last)
    return {"first_partial_share": spread(shares)}


def rate(server: Served, twins: Twins, clients: int, seconds: float) -> dict[str, Any]:
    """Pictures a second under clients in a closed loop, with seconds per picture and how many went wrong."""
    began = time.perf_counter()
    tally = closed(server.url, twins, clients, seconds)
    spent = time.perf_counter() - began
    counted = {"pictures": len(tally.seconds), "wrong": tally.wrong, "lost": tally.lost}
    return {**counted, "pictures_per_second": len(tally.seconds) / spent, **percentiles(tally.seconds)}


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
