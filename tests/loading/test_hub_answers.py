"""The hub, or what stands in its place, gives no answer that helps: the cache serves, or it is said what to do."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stagevar.errors import MissingFileError, OutputError
from stagevar.loading.download import locate

from ..standin import Hub

NETWORK = bytes(range(256)) * 40


@pytest.fixture
def hub(empty_hub: Hub) -> Hub:
    empty_hub.add("owner/name", {"net.pth": NETWORK, "config.json": b"{}"})
    return empty_hub


class Answering(BaseHTTPRequestHandler):
    """Answers all requests alike, as a proxy does."""

    status, body = 200, b""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.body)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"", r"refuses the token \(401\); log in anew"),
        (403, b"", r"refuses access \(403\); .*check the proxy"),
        (404, b"", "answers 404; .*HF_ENDPOINT"),
        (429, b"", r"asked too often from here \(429\); wait"),
        (503, b"", "answers 503; try again later"),
        (200, b"<html>log in</html>", "cannot be reached .JSONDecodeError: .*check the network, the proxy"),
    ],
)
def test_an_answer_that_is_not_about_the_repository_leaves_the_cache(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    path = locate("owner/name", "net.pth")
    kind = type("Kind", (Answering,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        try:
            assert locate("owner/name", "net.pth") == path
            for repository, name in (("owner/name", "config.json"), ("owner/else", "net.pth")):
                with pytest.raises(
                    MissingFileError, match=f"{name} of {repository}: not in the cache, and .*{message}"
                ):
                    locate(repository, name)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("token", ["hf_mine\n", "hf_mine "])
def test_a_token_that_cannot_be_sent_is_said_and_not_shown(hub: Hub, token: str) -> None:
    with pytest.raises(MissingFileError, match="the token holds what cannot be sent") as error:
        locate("owner/name", "net.pth", token=token)
    assert "hf_mine" not in str(error.value)


def test_a_cache_that_cannot_be_written_to_is_said_before_the_download(hub: Hub, tmp_path: Path) -> None:
    locate("owner/name", "config.json")
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"the cache .*taken.* cannot be written to; .*HF_HOME"):
        locate("owner/name", "net.pth", cache_dir=tmp_path / "taken" / "hub")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "models--owner--name").write_text("")
    with pytest.raises(OutputError, match=r"net\.pth of owner/name: .*Not a directory; .*HF_HOME"):
        locate("owner/name", "net.pth", cache_dir=tmp_path / "hub")
    assert not hub.downloads("net.pth")


@pytest.mark.parametrize("repository", ["owner/-name", "own--er/name", "owner/" + "n" * 99])
def test_what_the_hub_calls_no_repository_is_said_so(hub: Hub, repository: str) -> None:
    with pytest.raises(MissingFileError, match="no name of a hub repository"):
        locate(repository, "net.pth")
