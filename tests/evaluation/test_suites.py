"""Every benchmark's layout is what its official scorer reads, and its results are understood.

Each ``reads_...`` below goes through a folder as the official reader does and returns what that would look at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stagevar.errors import MissingFileError, OptionError, OutputError
from stagevar.evaluation.layout import lay_out
from stagevar.evaluation.run import Run, row_ids
from stagevar.evaluation.suite import Item, Suite
from stagevar.evaluation.suites.known import SUITES, find

SIDE = 8


def write(path: Path, value: Any) -> Path:
    """A file of a benchmark: text, JSON, or for a list of objects a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        value = "".join(json.dumps(each) + "\n" for each in value)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def benchmark(suite: str, folder: Path) -> Path:
    """The prompts of a small benchmark in the form in which the real one publishes them."""
    if suite == "geneval":
        lines = [{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}]
        lines.append({"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "two clocks"})
        return write(folder / "evaluation_metadata.jsonl", lines)
    if suite == "geneval2":
        found = [{"prompt": text, "atom_count": 3, "vqa_list": [["?", "Yes"]], "skills": ["object"]} for text in "ab"]
        return write(folder / "geneval2_data.jsonl", found)
    if suite == "dpg":
        write(folder / "prompts" / "partiprompts1.txt", "a long\nprompt")
        return write(folder / "prompts" / "12.txt", "another").parent
    if suite == "hps":
        write(folder / "benchmark" / "photo.json", ["a dog", "a cat"])
        return write(folder / "benchmark" / "concept-art.json", ["a castle"]).parent
    if suite == "imagereward":
        return write(folder / "prompts.json", [{"id": "000904-0035", "prompt": "a"}, {"id": "1", "prompt": "b"}])
    if suite == "mjhq":
        return write(folder / "meta.json", {"ab12": {"category": "people", "prompt": "a man"}})
    if suite == "coco":
        captions = [{"image_id": 42, "id": 9, "caption": "later"}, {"image_id": 42, "id": 3, "caption": "first "}]
        return write(folder / "captions.json", {"annotations": [*captions, {"image_id": 7, "id": 5, "caption": "x"}]})
    return write(folder / "prompts.jsonl", [{"id": 5, "prompt": "a"}, {"prompt": "b"}])


def drawn(suite: Suite, folder: Path, protocol: str | None = None) -> Run:
    """A run whose pictures are of one colour each, as a job leaves them."""
    how, items = suite.protocol(protocol), suite.items(benchmark(suite.name, folder))
    texts = {item.prompt: f"{item.prompt}, in detail" for item in items}
    run = Run(suite, how, items, folder / "run", texts)
    run.drawn.mkdir(parents=True)
    for number, row in enumerate(run.rows()):
        Image.new("RGB", (SIDE, SIDE), (20 * number, 0, 0)).save(run.drawn / f"{row.row.id}.png")
        record = {"id": row.row.id, "dtype": "float32", "stagevar": "0", "torch": "2"}
        write(run.drawn / f"{row.row.id}.json", record | {"scales": [{"scale": 0}, {"scale": number % 2}]})
    return run


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def reads_geneval(folder: Path, prompts: Path) -> list[str]:
    pictures = folder / "pictures"
    found = []
    for inside in (each for each in pictures.iterdir() if each.is_dir() and each.name.isdigit()):
        metadata = json.loads((inside / "metadata.jsonl").read_text())
        assert metadata["tag"] and metadata["include"][0]["class"]
        samples = [each for each in (inside / "samples").iterdir() if re.match(r"\d+\.png", each.name)]
        found += [f"{metadata['prompt']} {len(samples)}"]
    return sorted(found)


def reads_geneval2(folder: Path, prompts: Path) -> list[str]:
    paths = json.loads((folder / "image_paths.json").read_text())
    data = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    return [f"{prompt} {opened(Path(paths[prompt])).size}" for prompt in data]


def reads_dpg(folder: Path, prompts: Path) -> list[str]:
    found = []
    for path in sorted((folder / "pictures").iterdir()):
        image, name = opened(path), path.name.split(".")[0]
        assert (prompts / f"{name}.txt").exists()
        corners = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]
        cut = [image.crop((x, y, x + SIDE, y + SIDE)).getpixel((1, 1)) for x, y in corners]
        found.append(f"{name} {[pixel[0] // 20 for pixel in cut]}")
    return found


def reads_hps(folder: Path, prompts: Path) -> list[str]:
    found = []
    for style in sorted((folder / "pictures").iterdir()):
        for index, prompt in enumerate(json.loads((prompts / f"{style.name}.json").read_text())):
            path = style / f"{index:05d}.jpg"
            assert path.read_bytes().startswith(b"\xff\xd8\xff"), "a JPEG file"
            found.append(f"{prompt} {opened(path).size}")
    return found


def reads_imagereward(folder: Path, prompts: Path) -> list[str]:
    models, asked = folder / "pictures", json.loads(prompts.read_text())
    assert [each.name for each in models.iterdir()] == ["stagevar"]
    count = len(list((models / "stagevar").iterdir())) // len(asked)
    for one in asked:
        for i in range(count):
            opened(models / "stagevar" / f"{one['id']}_{i}.png")
    return [f"{one['prompt']} {count}" for one in asked]


def reads_folders(folder: Path, prompts: Path) -> list[str]:
    return sorted(str(each.relative_to(folder / "pictures")) for each in (folder / "pictures").rglob("*.png"))


def reads_evalscope(folder: Path, prompts: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / "evalscope.jsonl").read_text().splitlines()]
    return [f"{line['id']} {line['prompt']} {opened(Path(line['image_path'])).size}" for line in lines]


READ: dict[str, tuple[Callable[[Path, Path], list[str]], list[str]]] = {
    "geneval": (reads_geneval, ["a bench 4", "two clocks 4"]),
    "geneval2": (reads_geneval2, ["a (8, 8)", "b (8, 8)"]),
    "dpg": (reads_dpg, ["12 [0, 1, 2, 3]", "partiprompts1 [4, 5, 6, 7]"]),
    "hps": (reads_hps, ["a castle (8, 8)", "a dog (8, 8)", "a cat (8, 8)"]),
    "imagereward": (reads_imagereward, ["a 10", "b 10"]),
    "mjhq": (reads_folders, ["people/ab12.png"]),
    "coco": (reads_folders, ["000000000007.png", "000000000042.png"]),
    "evalscope": (reads_evalscope, ["5_0 a (8, 8)", "00001_0 b (8, 8)"]),
}
"""Per benchmark its reader, and what that finds of ``drawn``."""


@pytest.mark.parametrize("name", SUITES)
def test_the_official_reader_finds_every_picture(name: str, tmp_path: Path) -> None:
    run = drawn(find(name), tmp_path)
    laid = lay_out(run)
    reader, expected = READ[name]
    assert reader(run.folder, benchmark(name, tmp_path)) == expected
    assert laid.whole and laid.scales["0"] == laid.asked == len(run.rows())
    assert laid.scales.get("1", 0) == laid.asked // 2 and laid.made["dtype"] == "float32"


def test_a_layout_is_renewed_and_files_of_others_stay(tmp_path: Path) -> None:
    run = drawn(find("geneval"), tmp_path)
    lay_out(run)
    (run.drawn / "00001_2.png").unlink()
    laid = lay_out(run)
    assert (laid.drawn, laid.files) == (7, 4) and not (run.folder / "pictures" / "00001").exists()
    write(run.folder / "pictures" / "00001" / "metadata.jsonl", [{"of": "another"}])
    Image.new("RGB", (SIDE, SIDE)).save(run.drawn / "00001_2.png")
    with pytest.raises(OutputError, match="was not written by stagevar"):
        lay_out(run)
    assert "another" in (run.folder / "pictures" / "00001" / "metadata.jsonl").read_text()


@pytest.mark.parametrize(
    "file",
    ["../other.txt", "pictures/../../other.txt", "/{tmp}/other.txt", "report.json", "drawn/00000_0.png", "pictures"],
)
def test_a_layout_removes_nothing_but_what_a_layout_writes(tmp_path: Path, file: str) -> None:
    run = drawn(find("geneval"), tmp_path)
    kept = {write(path, "mine") for path in (tmp_path / "other.txt", run.folder / "report.json")}
    write(run.folder / "layout.json", ["layout.json", file.replace("/{tmp}", str(tmp_path))])
    with pytest.raises(OptionError, match=r"layout\.json lists '.*', which is no file of its layout"):
        lay_out(run)
    assert all(path.read_text() == "mine" for path in kept) and len(list(run.drawn.glob("*.png"))) == 8


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"scales": [{"scale": "a"}]}', '{"scales": [7]}', "{", None])
def test_a_damaged_record_of_a_picture_is_named(tmp_path: Path, text: str | None) -> None:
    run = drawn(find("geneval"), tmp_path)
    (path := run.drawn / "00000_1.json").unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=r"00000_1\.json is no record of 00000_1\.png; remove both"):
        lay_out(run)


def test_pictures_pass_jpeg_where_the_protocol_says_so(tmp_path: Path) -> None:
    run = drawn(find("geneval"), tmp_path, "infinity")
    for path in run.drawn.glob("*.png"):
        Image.effect_noise((SIDE, SIDE), 80).convert("RGB").save(path)
    lay_out(run)
    made, source = (
        opened(path) for path in (run.folder / "pictures" / "00000" / "samples" / "0000.png", run.drawn / "00000_0.png")
    )
    assert made.tobytes() != source.tobytes()
    assert [row.row.prompt for row in run.rows()[:5:4]] == ["a bench, in detail", "two clocks, in detail"]
    assert run.rows()[0].row.guidance_scale == 4.0 and run.rows()[0].row.temperature == 1.0


RESULTS: dict[str, tuple[str, Any, dict[str, float], int | None]] = {
    "geneval": (
        "r.jsonl",
        [{"tag": "single_object", "correct": True}] * 3
        + [{"tag": "single_object", "correct": False}]
        + [{"tag": "counting", "correct": False}],
        {"overall": 0.375, "single_object": 0.75, "counting": 0.0},
        5,
    ),
    "geneval2": ("r.json", [[0.25, 1.0], [0.0, 1.0]], {"soft_tifa_gm": 0.25, "soft_tifa_am": 0.5625}, 2),
    "dpg": (
        "r.txt",
        "/p/12.png, 0.5, 1.0, 0.75\nModel: pictures\nL1 category scores:\n\tentity: 88.5\n\tglobal: 80.0\n"
        "L2 category scores:\n\tentity - whole: 88.5\nDPG-Bench score: 83.12\n",
        {"overall": 83.12, "entity": 88.5, "global": 80.0},
        1,
    ),
    "hps": (
        "r.txt",
        "---- benchmark score ----\npictures anime           31.65 \t 0.1432\npictures Average         30.46 \t\n",
        {"overall": 30.46, "anime": 31.65},
        None,
    ),
    "imagereward": ("r.json", {"stagevar": 0.94}, {"overall": 0.94}, None),
    "mjhq": ("r.json", {"frechet_inception_distance": 9.8}, {"fid": 9.8}, None),
    "coco": ("r.json", {"frechet_inception_distance": 26.91}, {"fid": 26.91}, None),
    "evalscope": ("r.json", {"metrics": [{"name": "PickScore", "score": 21.5}]}, {"PickScore": 21.5}, None),
}
"""Per benchmark results as its scorer writes them, and what they say."""


@pytest.mark.parametrize("name", SUITES)
def test_results_are_read_as_the_scorer_writes_them(name: str, tmp_path: Path) -> None:
    file, value, expected, counted = RESULTS[name]
    found = find(name).scores(write(tmp_path / file, value))
    assert found.values == pytest.approx(expected) and found.counted == counted
    assert next(iter(found.values)) == next(iter(expected)), "the headline stands first"


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", "null", '{"a": ', "\x00"])
def test_files_of_another_form_are_refused_by_name(name: str, text: str, tmp_path: Path) -> None:
    (path := tmp_path / "strange").write_text(text)
    with pytest.raises((OptionError, MissingFileError), match="strange"):
        find(name).scores(path)
    with pytest.raises((OptionError, MissingFileError), match="strange"):
        find(name).items(path)
    with pytest.raises(MissingFileError):
        find(name).items(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("imagereward", [{"id": "a/b", "prompt": "x"}], "cannot be those of files"),
        ("imagereward", [{"id": "a", "prompt": "x"}] * 2, "several prompts named a"),
        ("mjhq", {"a": {"category": "people"}}, "has no text prompt"),
    ],
)
def test_names_that_no_layout_can_hold_are_refused(name: str, value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        find(name).items(write(tmp_path / "prompts.json", value))


def test_a_protocol_that_needs_rewritten_prompts_asks_for_them(tmp_path: Path) -> None:
    suite = find("geneval")
    items = suite.items(benchmark("geneval", tmp_path))
    with pytest.raises(OptionError, match="2 prompts are not rewritten"):
        Run(suite, suite.protocol("infinity"), items, tmp_path)
    with pytest.raises(OptionError, match=r"a sheet of DPG-Bench has 4 pictures, not 2"):
        Run(find("dpg"), replace(find("dpg").protocol(None), per_prompt=2), items, tmp_path)
    with pytest.raises(OptionError, match="there is official, infinity"):
        suite.protocol("unknown")
    with pytest.raises(OptionError, match="there is no benchmark"):
        find("unknown")


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_protocol_says_all_that_a_score_depends_on(suite: Suite) -> None:
    for each in suite.protocols:
        said = each.sentence()
        for word in ("per prompt", "prompts", "guidance", "temperature", "top_k", "top_p", each.source):
            assert word in said
        assert "lossless" in said or "JPEG" in said
        assert len(row_ids(Item("a", "a prompt"), each)) == each.per_prompt
    changed = suite.protocol(None).changed(guidance=9.5, temperature=None)
    assert "with another guidance" in changed.sentence() and "guidance 9.5" in changed.sentence()
