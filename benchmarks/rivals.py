"""Every accelerator of the package on one model, at its defaults and at some settings: ``python benchmarks/rivals.py``.

One process, the same held-out captions and noise for all, picture by picture in turn
(``stagevar.measure.bench.compare``). Appends a run to ``results/rivals.jsonl``, for a world other than scenes to
``rivals-WORLD.jsonl``: ``comparison``, and ``left_out`` with what the model cannot take and why.
"""

from __future__ import annotations

import time

from store import append, arguments

from stagevar.errors import OptionError
from stagevar.listing import shipped
from stagevar.measure.bench.compare import compare
from stagevar.pipeline import Pipeline
from stagevar.request import Request

SETTINGS = (
    *("drop_last(2)", "drop_last(4)", "guidance_off(2)"),
    "lazyvar(shares=(0.3, 0.2))",
    *(f"skipvar(target={target})" for target in (0.9, 0.95, 0.98)),
)
"""What runs besides the defaults: more of the controls' front, and settings that other models are published with."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--captions", type=int, default=60)
    parser.add_argument("--model", default="scenes", help="A name, or a folder that a recipe wrote.")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, device=options.device, dtype="float32")
    began, left_out = time.time(), refused(pipe)

    def told(done: int) -> None:
        print(f"{done} of {options.captions} captions, {time.time() - began:.0f} s", flush=True)

    names = [row.name for row in shipped() if row.name not in left_out]
    found = compare(pipe, [*names, *SETTINGS], captions=options.captions, batch_size=1, progress=told)
    world = "" if pipe.model.suite == "scenes" else f"-{pipe.model.suite}"
    append(f"rivals{world}", options.device, {"comparison": found, "left_out": left_out}, options.out)


def refused(pipe: Pipeline) -> dict[str, str]:
    """Accelerators that the model does not take, and why."""
    reasons = {}
    for row in shipped():
        try:
            pipe.prepare(Request(pipe.model.samples[0], accelerator=row.name))
        except OptionError as error:
            reasons[row.name] = str(error)
    return reasons


if __name__ == "__main__":
    main()
