"""Finding files: local folders, the hub's cache, and downloads from a stand-in for the hub that cuts and corrupts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stagevar.errors import MissingFileError, OutputError
from stagevar.loading.download import locate
from stagevar.loading.hub import choose, listing

from ..standin import LARGE, Hub, commit

NETWORK = bytes(range(256)) * 40
SETTINGS = b'{"depth": 2}'


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert message.strip() and "\n" not in message
    return message


@pytest.fixture
def hub(empty_hub: Hub) -> Hub:
    """A hub with one repository, of one large and one small file and a folder of both kinds of weights."""
    files = {"net.pth": NETWORK, "config.json": SETTINGS}
    shards = {f"pytorch_model-0000{i}-of-00002.bin": NETWORK[i:] for i in (1, 2)}
    shards |= {"pytorch_model.bin.index.json": b"{}", "model.safetensors": NETWORK[3:], "config.json": b"{}"}
    empty_hub.add("owner/name", files | {f"both/{name}": data for name, data in shards.items()})
    return empty_hub


def contents(cache: Path) -> list[str]:
    """Files of the cache, apart from locks and notes."""
    return sorted(p.name for kind in ("blobs", "snapshots") for p in cache.glob(f"*/{kind}/**/*") if not p.is_dir())


# --- local --------------------------------------------------------------------


def test_local_files_and_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.touch()
    assert locate(tmp_path) == tmp_path
    assert locate(file) == file
    assert locate(tmp_path, "a.pth") == file


def test_safetensors_are_taken_instead_of_a_pickle_of_the_same_name(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors", "b.pth"):
        (tmp_path / name).touch()
    assert locate(tmp_path, "a.pth").name == "a.safetensors"
    assert locate(tmp_path, "b.pth").name == "b.pth"


def test_a_missing_file_of_a_folder_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.pth").touch()
    with pytest.raises(MissingFileError) as error:
        locate(tmp_path, "a.pth")
    assert "a.pth" in one_line(error) and "other.pth" in one_line(error)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "owner/name.pth", "a b/c", "scenes2"])
def test_what_is_neither_path_nor_repository_is_said_so(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(MissingFileError, match="is no hub repository such as owner/name"):
        locate(source, "x.pth")


ROOT = ["a.pth", "b.pth", "b.safetensors", "config.json", "f/g/model.safetensors"]
FOLDER = ["model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json", "spiece.model", "x.msgpack"]
SAFE = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
PICKLED = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]


@pytest.mark.parametrize(
    ("paths", "file", "expected"),
    [
        (ROOT, "a.pth", ["a.pth"]),
        (ROOT, "b.pth", ["b.safetensors"]),
        (ROOT, "config.json", ["config.json"]),
        (ROOT, "c.pth", []),
        (ROOT, "f/g/", ["f/g/model.safetensors"]),
        (ROOT, "f/", []),
        (FOLDER + SAFE + PICKLED, "", ["config.json", "model.safetensors.index.json", "spiece.model", *SAFE]),
        (FOLDER + PICKLED, "", ["config.json", "pytorch_model.bin.index.json", "spiece.model", *PICKLED]),
        ([*SAFE, "open_clip_model.safetensors", "vocab.json"], "", ["vocab.json", *SAFE]),
        (["open_clip_model.safetensors", "pytorch_model.bin"], "", ["pytorch_model.bin"]),
        (["k/ema.safetensors", "k/z.pth"], "k/", ["k/ema.safetensors"]),
    ],
)
def test_what_is_taken_of_a_repository(paths: list[str], file: str, expected: list[str]) -> None:
    assert choose(paths, file) == expected


# --- from the hub -------------------------------------------------------------


def test_a_file_is_downloaded_once(hub: Hub) -> None:
    for name, data in (("net.pth", NETWORK), ("config.json", SETTINGS)):
        assert locate("owner/name", name).read_bytes() == data
        assert locate("owner/name", name).read_bytes() == data
        assert len(hub.downloads(name)) == 1
    asked = len(hub.requests)
    assert locate("owner/name", "net.pth", local_files_only=True).read_bytes() == NETWORK
    assert len(hub.requests) == asked


def test_of_a_folder_only_the_better_kind_of_weights_is_downloaded(hub: Hub) -> None:
    folder = locate("owner/name", "both/")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert locate("owner/name", "both/", local_files_only=True) == folder
    hub.repositories["owner/name"]["main"]["net.safetensors"] = NETWORK[::-1]
    assert locate("owner/name", "net.pth").read_bytes() == NETWORK[::-1]


def test_a_broken_download_is_resumed_where_it_stopped(hub: Hub) -> None:
    hub.faults["net.pth"] = ["cut", "cut"]
    assert locate("owner/name", "net.pth").read_bytes() == NETWORK
    ranges = [headers.get("Range") for headers in hub.downloads("net.pth")]
    assert ranges == [None, f"bytes={len(NETWORK) // 2}-", f"bytes={len(NETWORK) * 3 // 4}-"]


@pytest.mark.parametrize(("name", "data"), [("net.pth", NETWORK), ("config.json", SETTINGS)])
@pytest.mark.parametrize("fault", ["flip", "fail"])
def test_a_damaged_download_is_repaired(hub: Hub, name: str, data: bytes, fault: str) -> None:
    hub.faults[name] = [fault]
    assert locate("owner/name", name).read_bytes() == data
    assert len(hub.downloads(name)) == 2


@pytest.mark.parametrize("name", ["net.pth", "config.json"])
def test_what_stays_damaged_is_an_error_and_leaves_nothing_behind(hub: Hub, cache: Path, name: str) -> None:
    hub.faults[name] = ["flip"] * 9
    with pytest.raises(MissingFileError, match=r"owner/name: the file is damaged \(sha\d+ differs.*2 times"):
        locate("owner/name", name)
    assert contents(cache) == []
    with pytest.raises(MissingFileError):
        locate("owner/name", name, local_files_only=True)
    hub.faults.clear()
    locate("owner/name", name)


def test_a_connection_that_always_breaks_is_an_error(hub: Hub, cache: Path) -> None:
    hub.faults["net.pth"] = ["cut", "fail"] * 20
    with pytest.raises(MissingFileError, match=r"net\.pth of owner/name: .*broke off.*2 times"):
        locate("owner/name", "net.pth")
    assert contents(cache) == []


def test_a_file_that_was_cut_in_the_cache_is_fetched_again(hub: Hub) -> None:
    path = locate("owner/name", "net.pth").resolve()
    path.write_bytes(NETWORK[:500])
    assert locate("owner/name", "net.pth").read_bytes() == NETWORK


@pytest.mark.parametrize("linked", ["file", "snapshot", "blobs", "storage"])
def test_a_damaged_file_of_the_users_that_the_cache_links_to_is_kept(hub: Hub, tmp_path: Path, linked: str) -> None:
    path = locate("owner/name", "net.pth")
    storage, mine = path.parents[2], tmp_path / "mine"
    if linked == "file":
        path.unlink()
        mine.write_bytes(b"my own weights")
        path.symlink_to(mine)
        assert locate("owner/name", "net.pth").read_bytes() == NETWORK and mine.read_bytes() == b"my own weights"
        return
    moved = {"snapshot": path.parent, "blobs": storage / "blobs", "storage": storage}[linked]
    moved.rename(mine)
    moved.symlink_to(mine)
    kept = mine / "net.pth"
    if linked == "snapshot":
        kept.unlink()
        kept.write_bytes(b"my own weights")
        with pytest.raises(MissingFileError, match="outside of the cache"):
            locate("owner/name", "net.pth")
        assert kept.read_bytes() == b"my own weights"
    else:
        path.resolve().write_bytes(NETWORK[:500])
        assert locate("owner/name", "net.pth").read_bytes() == NETWORK


@pytest.mark.parametrize(("name", "data"), [("net.pth", NETWORK), ("config.json", SETTINGS)])
def test_what_replaces_a_cut_file_of_the_cache_is_compared_with_the_hub_s_hash(
    hub: Hub, name: str, data: bytes
) -> None:
    locate("owner/name", name).resolve().write_bytes(data[:5])
    hub.faults[name] = ["flip"]
    with pytest.raises(MissingFileError, match="the file is damaged"):
        locate("owner/name", name)
    assert locate("owner/name", name).read_bytes() == data


def test_revisions_are_kept_apart(hub: Hub) -> None:
    hub.add("owner/name", {"net.pth": NETWORK[5:]}, "v2")
    for revision, data in (("v2", NETWORK[5:]), ("main", NETWORK), (None, NETWORK)):
        assert locate("owner/name", "net.pth", revision=revision).read_bytes() == data
    assert locate("owner/name", "net.pth", revision="v2", local_files_only=True).read_bytes() == NETWORK[5:]
    assert locate("owner/name", "net.pth", revision=commit("v2"), local_files_only=True).read_bytes() == NETWORK[5:]


def test_a_token_opens_a_gated_repository_and_goes_to_the_hub_only(hub: Hub) -> None:
    hub.gated.add("owner/name")
    with pytest.raises(MissingFileError, match="access has to be granted"):
        locate("owner/name", "net.pth")
    assert locate("owner/name", "net.pth", token=hub.token).read_bytes() == NETWORK
    assert not any("Authorization" in headers for headers in hub.downloads("net.pth"))


@pytest.mark.parametrize(
    ("repository", "name", "revision", "message"),
    [
        ("owner/else", "net.pth", None, "no such repository"),
        ("owner/name", "no.pth", None, r"no\.pth of owner/name: the repository has no such file; it has both/config"),
        ("owner/name", "no/", None, "no such folder of weights"),
        ("owner/name", "net.pth", "v9", "at revision v9: the repository has no such revision"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: Hub, repository: str, name: str, revision: str | None, message: str
) -> None:
    with pytest.raises(MissingFileError, match=message) as error:
        locate(repository, name, revision=revision)
    one_line(error)


def test_without_the_hub_the_cache_serves(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub().serving() as hub:
        hub.add("owner/name", {"net.pth": NETWORK})
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        locate("owner/name", "net.pth")
    assert locate("owner/name", "net.pth").read_bytes() == NETWORK
    with pytest.raises(MissingFileError, match="the hub cannot be reached"):
        locate("owner/else", "net.pth")


@pytest.mark.parametrize("name", ["b.pth", "other/"])
def test_what_the_cache_lacks_is_named_with_its_repository(hub: Hub, name: str) -> None:
    locate("owner/name", "net.pth")
    with pytest.raises(MissingFileError, match=f"{name} of owner/name: not in the cache, and downloads are off"):
        locate("owner/name", name, local_files_only=True)


def test_an_unknown_repository_offline_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(MissingFileError) as error:
        locate("owner/else", "a.pth", revision="v1", local_files_only=True)
    assert "hf download owner/else a.pth" in one_line(error) and "v1" in one_line(error)
    with pytest.raises(MissingFileError, match=r"hf download owner/else --include 'shards/\*'"):
        locate("owner/else", "shards/", local_files_only=True)


def test_any_failure_of_the_hub_client_becomes_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("socket on fire\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(MissingFileError) as error:
        locate("owner/name", "net.pth")
    assert "socket on fire" in one_line(error)


def test_a_full_disk_is_said_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5000})())
    with pytest.raises(OutputError, match="HF_HOME"):
        locate("owner/name", "net.pth")
    assert not hub.downloads("net.pth")
    assert locate("owner/name", "config.json").read_bytes() == SETTINGS


def test_a_listing_has_sizes_hashes_and_the_licence(hub: Hub) -> None:
    found = listing("owner/name")
    assert found.licence == "mit"
    assert found.files["net.pth"].size == len(NETWORK) >= LARGE and found.files["net.pth"].sha256
    assert found.files["config.json"].size == len(SETTINGS) and not found.files["config.json"].sha256


def test_the_variables_of_the_environment_are_heeded(hub: Hub, tmp_path: Path) -> None:
    code = "from stagevar.loading.download import locate; print(locate('owner/name', 'net.pth'))"
    places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return subprocess.run(
            [sys.executable, "-c", code], env=clean | places | more, capture_output=True, text=True, check=False
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert "downloads are off" in offline.stderr and not hub.requests
    path = Path(run().stdout.strip())
    assert path.is_relative_to(tmp_path / "home" / "hub") and path.read_bytes() == NETWORK
    asked = len(hub.requests)
    assert Path(run(HF_HUB_OFFLINE="1").stdout.strip()) == path and len(hub.requests) == asked
