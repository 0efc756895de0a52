"""What a browser can reach through the page: nothing of this machine but what it has uploaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx import Client

from stagevar.ui.door import LARGEST

SITE = """
import socket
import uvicorn
from fastapi import FastAPI
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.ui.page import mount
app = FastAPI()
app.get("/file={path}")(lambda path: path)
mount(app, Pipeline(tiny("scenes")), path="/page")
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])
"""


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def client(uploads: Path) -> Iterator[Client]:
    """Asks an application that has a page among other things, in a process of its own."""
    environment = os.environ | {"GRADIO_TEMP_DIR": str(uploads), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen([sys.executable, "-c", SITE], stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            yield client
        process.kill()


def number(client: Client, name: str) -> int:
    """The number of an event of the page."""
    events = client.get("/page/config").json()["dependencies"]
    return next(int(event["id"]) for event in events if event["api_name"] == name)


def sent(client: Client, name: str, *fields: Any) -> Any:
    body = {"data": fields, "fn_index": number(client, name), "session_hash": "one"}
    return client.post("/page/gradio_api/run/predict", json=body)


def test_the_page_is_there_and_the_application_around_it_is_left_alone(client: Client) -> None:
    assert client.get("/page/").status_code == 200 and client.get("/page/theme.css").status_code == 200
    assert client.get("/file=x").json() == "x"
    assert "is given as text" not in sent(client, "_dial", "drop_last").text


@pytest.mark.parametrize("path", ["/etc/hostname", __file__, "/dev/zero", "http://203.0.113.1/a.png", "../a.png", ""])
def test_a_file_or_address_that_was_not_uploaded_is_refused(client: Client, uploads: Path, path: str) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for field in (file, {"background": file, "layers": [], "composite": None}, [[file]]):
        answer = sent(client, "_dial", field)
        assert answer.status_code == 500 and "choose it once more" in answer.json()["error"]
    assert not any(each.is_file() for each in uploads.rglob("*"))


def test_a_file_that_was_uploaded_is_taken(client: Client, uploads: Path) -> None:
    [path] = client.post("/page/gradio_api/upload", files={"files": ("../a.png", b"picture")}).json()
    assert Path(path).is_relative_to(uploads)
    assert sent(client, "_dial", {"path": path, "meta": {"_type": "gradio.FileData"}}).status_code == 200
    assert client.get(f"/page/gradio_api/file={path}").status_code == 404
    Path(path).unlink()


@pytest.mark.parametrize(
    "path",
    ["run/draw", "api/draw", "call/draw", "component_server", "process_recording", "vibe-edit", "login", "stream/x"],
)
def test_what_the_page_does_not_ask_for_is_not_there(client: Client, path: str) -> None:
    for answer in (client.post(f"/page/gradio_api/{path}", json={}), client.get(f"/page/gradio_api/{path}")):
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_what_draws_waits_in_the_queue(client: Client) -> None:
    answer = sent(client, "draw", "scenes-tiny", "a star", "12 x 12", "1", "none", 0.5)
    assert answer.status_code == 404 and "join the queue" in answer.json()["detail"]


def test_a_body_is_no_larger_than_the_fields_of_the_page(client: Client) -> None:
    assert sent(client, "_dial", "x" * LARGEST).status_code == 413
