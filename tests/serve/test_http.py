"""What comes over the wire besides good requests: bodies, keys, ids, the log, and the paths for operators."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse_foreign
from stagevar.serve.limits import Limits

from .conftest import Address, Served, serving

PICTURES = "/v1/images/generations"


@pytest.fixture(scope="module")
def small(pipelines: dict[str, Pipeline]) -> Iterator[Served]:
    """A server of narrow limits."""
    with serving(pipelines, limits=Limits(body=2000, arrival=0.5), queue=1, batch=1) as found:
        yield found


def post(served: Address, **more: Any) -> httpx2.Response:
    return httpx2.post(served.url + PICTURES, timeout=30, **more)


def raw(served: Address, data: bytes, seconds: float = 10.0) -> bytes:
    """The answer to bytes of any kind."""
    place = urlsplit(served.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
            if b"\r\n\r\n" in answer and b"}}" in answer:
                break
    return answer


MALFORMED: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON object"),
    ({"content": b"", "headers": {"Content-Type": "application/json"}}, 400, "JSON object"),
    ({"content": b'{"prompt": "a"}'}, 400, "Content-Type: application/json"),
    ({"data": {"prompt": "a"}}, 400, "Content-Type: application/json"),
    ({"json": ["a"]}, 400, "JSON object"),
    ({"json": None}, 400, "JSON object"),
    ({"content": b"[" * 1500, "headers": {"Content-Type": "application/json"}}, 400, "body"),
    ({"content": b'{"prompt": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400, "prompt"),
    ({"content": b'{"prompt": "\xff"}', "headers": {"Content-Type": "application/json"}}, 400, "body"),
    ({"content": b'{"seed": ' + b"9" * 1500 + b"}", "headers": {"Content-Type": "application/json"}}, 400, ""),
    ({"content": b'{"prompt": "a", "top_p": NaN}', "headers": {"Content-Type": "application/json"}}, 400, "top_p"),
    ({"json": {"prompt": "a" * 3000}}, 413, "2000 bytes"),
]


@pytest.mark.parametrize(("more", "code", "words"), MALFORMED, ids=lambda value: str(value)[:50])
def test_a_bad_body_is_answered_in_the_envelope(small: Served, more: dict[str, Any], code: int, words: str) -> None:
    answer = post(small, **more)
    error = answer.json()["error"]
    assert answer.status_code == code and words in error["message"] and error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"} and answer.headers["x-request-id"].startswith("req_")


def test_a_body_that_does_not_arrive_is_not_waited_for(small: Served) -> None:
    head = f"POST {PICTURES} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    began = time.monotonic()
    answer = raw(small, head.encode())
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive" in answer and time.monotonic() - began < 5


def test_a_body_of_a_false_length_is_cut_off(small: Served) -> None:
    head = (
        f"POST {PICTURES} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = raw(small, head.encode() + b"bb8\r\n" + b" " * 3000 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert raw(small, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_what_there_is_not_is_said_in_the_envelope(small: Served) -> None:
    for method, path, code in (("GET", "/v1/files", 404), ("GET", PICTURES, 405), ("POST", "/v1/models", 405)):
        answer = httpx2.request(method, small.url + path)
        assert answer.status_code == code and path in answer.json()["error"]["message"]


def test_a_full_queue_is_429_with_the_time_to_come_back(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small.scheduler, "_queue", 0)
    answer = post(small, json={"prompt": "a red circle"})
    error = answer.json()["error"]
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert (error["type"], error["code"]) == ("rate_limit_error", "busy")


def test_a_deadline_is_504(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines, limits=Limits(deadline=0.0)) as found:
        answer = post(found, json={"prompt": "a red circle"})
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "server_error"


def numbers(answer: httpx2.Response) -> dict[str, float]:
    """Samples by name and labels, those of the replica aside."""
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "replica"]
            found[" ".join([sample.name, *labels])] = sample.value
    return found


def test_operators_see_life_readiness_and_numbers(served: Address) -> None:
    assert httpx2.get(served.url + "/health").json() == {"status": "alive"}
    assert httpx2.get(served.url + "/ready").json() == {"status": "ready", "models": ["scenes", "infinity"]}
    assert post(served, json={"prompt": "a red circle"}).status_code == 200
    pictures, until = f"stagevar_requests_total code=200 path={PICTURES}", time.monotonic() + 30
    while pictures not in numbers(answer := httpx2.get(served.url + "/metrics")):  # of several replicas one has drawn
        assert time.monotonic() < until, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    found = numbers(answer)
    assert found["stagevar_queue_pictures"] == 0 and found["stagevar_batch_pictures_count"] >= 1
    assert found["stagevar_scale_seconds_count model=scenes-tiny scale=0 stage=none"] >= 1
    assert found["stagevar_rows_total kind=kept model=scenes-tiny"] > 0


@pytest.mark.slow
def test_numbers_of_several_replicas_are_told_apart(replicated: Address) -> None:
    named: set[str] = set()
    until = time.monotonic() + 30
    while len(named) < 2:
        assert time.monotonic() < until, named
        for family in text_string_to_metric_families(httpx2.get(replicated.url + "/metrics").text):
            named |= {sample.labels["replica"] for sample in family.samples}


def test_a_server_is_alive_before_it_is_ready(pipelines: dict[str, Pipeline]) -> None:
    with serving({}) as found:
        assert httpx2.get(found.url + "/health").status_code == 200
        for answer in (httpx2.get(found.url + "/ready"), post(found, json={"prompt": "a"})):
            assert answer.status_code == 503 and "loaded" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "1"


def test_a_stopping_server_is_not_ready_and_refuses(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines) as found:
        found.scheduler.close()
        for answer in (httpx2.get(found.url + "/ready"), post(found, json={"prompt": "a"})):
            assert answer.status_code == 503 and "stopping" in answer.json()["error"]["message"]


def test_a_key_is_asked_for_at_all_paths_but_two(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines, keys=["secret"]) as found:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            assert httpx2.get(found.url + path).status_code == 401
            answer = httpx2.get(found.url + path, headers={"Authorization": "Bearer secret"})
            assert answer.status_code == (404 if path == "/nowhere" else 200)
        for path in ("/health", "/ready"):
            assert httpx2.get(found.url + path).status_code == 200


@pytest.mark.parametrize("wanted", [False, True])
def test_the_log_has_a_line_per_request_and_prompts_only_if_asked(
    pipelines: dict[str, Pipeline], caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    with caplog.at_level(logging.INFO, "stagevar.serve"), serving(pipelines, log_prompts=wanted) as found:
        answer = post(found, json={"prompt": "a red circle", "seed": 1, "n": 2})
        post(found, json={"prompt": "a red circle", "seed": "a red circle"})
        post(found, json={"prompt": "", "model": "a red circle"})
        time.sleep(0.1)
    first, *others = (json.loads(record.message) for record in caplog.records)
    assert first["request"] == answer.headers["x-request-id"] and first["status"] == 200
    assert (first["pictures"], first["size"], first["accelerator"], first["client"]) == (
        2,
        "12x12",
        "none",
        "127.0.0.1",
    )
    assert [line["status"] for line in others] == [400, 404]
    assert ("red circle" in caplog.text) == wanted == ("prompt" in first)


def test_other_origins_may_not_read_replies(served: Address) -> None:
    answer = httpx2.get(served.url + "/v1/models", headers={"Origin": "https://elsewhere.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    preflight = httpx2.options(
        served.url + PICTURES, headers={"Origin": "https://a", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405


@pytest.mark.parametrize("name", known())
def test_no_text_field_of_an_accelerator_takes_a_path_from_outside(name: str) -> None:
    from dataclasses import fields

    from stagevar.errors import OptionError

    for field in fields(known()[name]):
        with pytest.raises(OptionError):
            parse_foreign(f"{name}({field.name}='/etc/passwd')")
