"""Every accelerator, controls and our dial on one model: ``python benchmarks/front.py --model models/photos``.

One process, the same captions and noise for all, picture by picture in turn (``stagevar.measure.bench.compare``).
Appends to ``results/front.jsonl``, or for another model than the shipped one to a file of its name, a run with the
parts ``comparison`` and ``left_out``: what the model cannot take, and why. For the shipped model there is also
``long``: our accelerator and some others on the 13 scales of a one-megapixel Infinity schedule with random weights,
where only time means anything. There an online accelerator follows the plan predicted for average signals, since
random weights give no signals of their own.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from store import append, arguments

from stagevar.accelerators.base import Facts
from stagevar.drawing import condition
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.listing import shipped
from stagevar.machine import machine
from stagevar.measure.bench.compare import compare
from stagevar.measure.predict.flops import operations
from stagevar.measure.predict.rehearse import rehearse
from stagevar.pipeline import Pipeline
from stagevar.registry import parse
from stagevar.request import Request

OURS = [f"stagevar(quality={quality})" for quality in (0.0, 0.15, 0.3, 0.6, 0.7, 0.8, 0.9)]
CONTROLS = ["drop_last(2)", "drop_last(4)", "guidance_off(2)"]
CONTROLS += [f"drop_last(1)+guidance_off({count})" for count in (1, 2)]
SETTINGS = ["lazyvar(shares=(0.3, 0.2))", *(f"skipvar(target={target})" for target in (0.9, 0.95, 0.98))]
"""What other models are published with."""
LONG = ["none", "stagevar(quality=0.0)", "stagevar", "stagevar(quality=0.8)", "drop_last(1)", "drop_last(4)"]
LONG += ["guidance_off(2)", "lazyvar", "stagevar_released", "stagevar_paper"]
PROMPT = "a red circle to the left of a blue square"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("-m", "--model", default="scenes", help="a name, or a folder that a recipe wrote")
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model, device=options.device, dtype="float32")
    began, left_out = time.time(), refused(pipe)
    every = [*(row.name for row in shipped()), *OURS, *CONTROLS, *SETTINGS]
    chosen = [text for text in every if text.partition("(")[0] not in left_out]

    def told(done: int) -> None:
        print(f"{done} of {options.captions} captions, {time.time() - began:.0f} s", flush=True)

    found = compare(pipe, chosen, captions=options.captions, batch_size=options.batch_size, progress=told)
    report = {"comparison": found, "left_out": left_out}
    if options.model == "scenes":
        report["long"] = long_schedule(options.device, options.repeats)
    append("front" if options.model == "scenes" else pipe.model.name, options.device, report, options.out)


def refused(pipe: Pipeline) -> dict[str, str]:
    """Accelerators that the model does not take, and why."""
    reasons = {}
    for row in shipped():
        try:
            pipe.prepare(Request(pipe.model.samples[0], accelerator=row.name))
        except OptionError as error:
            reasons[row.name] = str(error)
    return reasons


def long_schedule(device: str, repeats: int) -> dict[str, Any]:
    """Seconds of the network on 13 scales, 10,521 tokens, interleaved; medians over ``repeats`` after a warm-up."""
    tokenizer = TokenizerConfig(bits=32, stride=16, base=32, encoder=None, decoder=(1, 2, 4, 4, 4), residual_blocks=1)
    model = tiny("infinity", width=256, depth=4, heads=4, chunks=4, tokenizer=tokenizer, budget="1M").to(device)
    pipe, schedule = Pipeline(model), model.schedule(1024, 1024)
    plain = pipe.prepare(Request(PROMPT, guidance_scale=3.0, height=1024, width=1024)).plan
    facts = Facts(model.depth, model.groups, model.causal, model.shared_codes)
    plans = {text: rehearse(parse(text), parse(text).plan(plain, schedule, facts), schedule) for text in LONG}
    cost = operations(model, schedule, 9)
    seconds: dict[str, list[float]] = {text: [] for text in LONG}
    for _ in range(repeats + 1):
        for text, plan in plans.items():
            seconds[text].append(timed(pipe, plan, schedule))
            print(f"13 scales, {text}: {seconds[text][-1]:.2f} s", flush=True)
    return {
        **machine(model),
        "model": "random weights: Infinity's blocks, width 256, depth 4, 4 heads",
        "batch": 1,
        "size": [1024, 1024],
        "repeats": repeats,
        "warm_up": "one untimed round",
        "rows": [
            {
                "accelerator": text,
                "network_seconds": {
                    "median": median(seconds[text][1:]),
                    "min": min(seconds[text][1:]),
                    "max": max(seconds[text][1:]),
                },
                "speedup": median(a / b for a, b in zip(seconds["none"][1:], seconds[text][1:], strict=True)),
                "flop_ratio": cost(plans["none"]) / cost(plans[text]),
                "executed_scales": list(plans[text].executed),
                "kept": [getattr(plan.tokens, "keep", None) for plan in plans[text]],
            }
            for text in LONG
        ],
    }


def timed(pipe: Pipeline, plan: Plan, schedule: Schedule) -> float:
    """Seconds of all passes of one picture."""
    with torch.inference_mode():
        given = condition(pipe.model, [Request(PROMPT, guidance_scale=3.0, height=1024, width=1024)])
    steps = run(pipe.model, given, schedule, [plan], [1])
    return sum(record.milliseconds for step in steps for record in step.records) / 1e3


if __name__ == "__main__":
    main()
