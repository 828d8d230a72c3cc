"""The HTTP API byte by byte: framing, bounds, and what OpenAI's client does not do."""

import hashlib
import http.client
import json
import re
import socket
import time

import pytest
from conftest import LONG, eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def connection(api):
    made = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=60)
    yield made
    made.close()


def ask(connection, body, path="/v1/completions", method="POST", headers=JSON):
    """Status, headers and JSON of the answer."""
    connection.request(method, path, body if isinstance(body, (bytes, str, type(None))) else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


def raw_answer(api, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", api.http_port), timeout=30) as client:
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def test_one_connection_serves_many_requests(api, connection):
    for _ in range(3):
        status, headers, answer = ask(connection, {"model": api.model, "prompt": "Hi", "max_tokens": 1})
        assert status == 200 and headers["Connection"] != "close"
        assert answer["usage"]["completion_tokens"] == 1
    assert ask(connection, {"model": api.model})[0] == 400
    assert ask(connection, None, "/v1/models", "GET")[0] == 200


@pytest.mark.parametrize("body, message", [
    (b'{"model": nul}', "byte 14"),
    (b"", "byte 1"),
    (b'{"model": "\xff"}', "UTF-8"),
    (b"[" * 1_000_000, "nested deeper"),
    (b'{"a":' * 1_000_000, "nested deeper"),
    (b'{"model":"m","model":"m"}', "twice"),
    (b'{"metadata":{"a":[' + b"{}," * 100_000 + b"{}]}}", "more than 98304 values"),
], ids=["syntax", "empty", "UTF-8", "lists", "objects", "twice", "many"])
def test_what_is_not_a_request_is_a_400(connection, body, message):
    status, _, answer = ask(connection, body)
    assert status == 400
    assert message in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_other_paths_and_methods_have_errors_of_the_same_form(api, connection):
    for method, path, expected in [("GET", "/", 404), ("POST", "/v1/embeddings", 404), ("GET", "/v1/completions", 405),
                                   ("POST", "/v1/models", 405), ("DELETE", "/v1/models/x", 405),
                                   ("PUT", "/v1/chat/completions", 405), ("POST", "/health", 405)]:
        status, headers, answer = ask(connection, "{}" if method != "GET" else None, path, method)
        assert status == expected, (method, path)
        assert answer["error"]["type"] == "invalid_request_error"
        assert headers["Allow"] == (None if expected != 405 else "POST" if "completions" in path else "GET, HEAD")
    assert ask(connection, None, "/v1/models/" + api.model.replace(" ", "%20"), "GET")[0] == 200


@pytest.mark.parametrize("body, headers, code, status", [
    (b"{", JSON, "INVALID_ARGUMENT", 400),
    (json.dumps({"model": "gpt-4", "prompt": "Hi"}), JSON, "NOT_FOUND", 404),
    (b" " * ((16 << 20) + 1), JSON, "INVALID_ARGUMENT", 413),
    (b"{}", {"Content-Type": "text/plain"}, "INVALID_ARGUMENT", 415),
], ids=["body", "model", "length", "type"])
def test_refusals_are_counted_and_logged(api, servers, connection, body, headers, code, status):
    counted = f'kvship_decode_requests_total{{code="{code}"}}', f'kvship_decode_http_responses_total{{status="{status}"}}'
    before = [api.metric(name, 0) for name in counted]
    came, answer_headers, _ = ask(connection, body, headers=headers)
    assert came == status
    # The answer's status is counted once it has gone out.
    assert eventually(lambda: [api.metric(name, 0) for name in counted] == [value + 1 for value in before])
    with open(servers.servers[1].log_path, encoding="utf-8") as log:
        line = next(line for line in log if answer_headers["x-request-id"] in line)
    assert "request refused" in line and f'code="{code}"' in line


def test_a_client_that_has_gone_is_counted_as_that(api, connection):
    counted = [f'kvship_decode_http_responses_total{{status="{status}"}}' for status in (499, 503)]
    before = [api.metric(name, 0) for name in counted]
    body = {"model": api.model, "prompt": "Once", "max_tokens": 2000, "min_tokens": 2000}
    connection.request("POST", "/v1/completions", json.dumps(body), JSON)
    time.sleep(0.5)
    connection.close()
    assert eventually(lambda: [api.metric(name, 0) for name in counted] == [before[0] + 1, before[1]])


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_another_content_type_is_refused(connection, content_type):
    status, _, answer = ask(connection, "{}", headers={"Content-Type": content_type})
    assert status == 415
    assert content_type in answer["error"]["message"]


def test_a_content_type_may_have_parameters(connection):
    assert ask(connection, "{}", headers={"Content-Type": "Application/JSON; charset=utf-8"})[0] == 400


def test_a_body_that_is_too_long_is_refused_while_it_comes(connection):
    status, headers, _ = ask(connection, b" " * ((16 << 20) + 1))
    assert status == 413 and headers["Connection"] == "close"


def test_chunked_bodies_are_read_and_bounded(api, connection):
    body = json.dumps({"model": api.model, "prompt": "Hi", "max_tokens": 1}).encode()
    pieces = [body[i:i + 7] for i in range(0, len(body), 7)]
    connection.request("POST", "/v1/completions", iter(pieces), JSON, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    connection.request("POST", "/v1/completions", (b" " * 65536 for _ in range(300)), JSON, encode_chunked=True)
    assert connection.getresponse().status == 413


@pytest.mark.parametrize("framing", ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: 2\r\nTransfer-Encoding: chunked",
                                     "X-Nothing: 1", "Content-Length: 2\nX-Hidden: 1", "Content-Length: two", "Content-Length: -2", "Transfer-Encoding: gzip, chunked"])
def test_a_body_without_a_clear_end_is_refused_and_the_connection_closed(api, framing):
    answer = raw_answer(api, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                             f"{framing}\r\n\r\n{{}}GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ") and b"where the body ends" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("request_bytes", [b"\r\n\r\n", b"GET\r\n\r\n", b"NONSENSE / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                                           b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"],
                         ids=["empty", "line", "method", "version", "long"])
def test_what_is_not_http_gets_an_error_and_the_connection_closed(api, request_bytes):
    answer = raw_answer(api, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 "))
    assert b'"error"' in answer


@pytest.mark.parametrize("version, hosts, status", [("1.1", 1, 200), ("1.1", 0, 400), ("1.1", 2, 400), ("1.0", 0, 200),
                                                    ("1.0", 2, 400)])
def test_a_request_names_its_host_once(api, version, hosts, status):
    host = "Host: localhost\r\n" * hosts
    answer = raw_answer(api, f"GET /v1/models HTTP/{version}\r\nConnection: close\r\n{host}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("host, status", [("localhost", 200), ("LOCALHOST:80", 200), ("127.0.0.1:1", 200), ("[::1]:1", 200),
                                          ("127.0.0.1.example.org", 400), ("localhost.example.org:80", 400)])
def test_a_loopback_port_without_tokens_is_for_those_who_name_it_so(api, host, status):
    answer = raw_answer(api, f"GET /v1/models HTTP/1.1\r\nConnection: close\r\nHost: {host}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"wanted localhost, 127.0.0.1 or [::1]" in answer) == (status == 400)


@pytest.mark.parametrize("target, hosts, status", [
    ("http://localhost", ["localhost"], 200), ("HTTP://127.0.0.1:1", ["proxy.example.org"], 200),
    ("http://example.org", ["localhost"], 400), ("http://example.org:80", [], 400), ("http://localhost", [], 400),
    ("http://localhost", ["localhost", "localhost"], 400), ("http://localhost@example.org", ["localhost"], 404)])
def test_the_host_of_a_target_in_absolute_form_counts(api, target, hosts, status):
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    answer = raw_answer(api, f"GET {target}/v1/models HTTP/1.1\r\nConnection: close\r\n{lines}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_an_empty_line_after_a_body_is_no_request(api):
    body = json.dumps({"model": api.model, "prompt": "Hi", "max_tokens": 1}).encode()
    head = b"POST http://localhost/v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n" % len(body)
    answer = raw_answer(api, request + b"\r\n" + body + b"\r\n" + request + b"Connection: close\r\n\r\n" + body)
    assert answer.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("flag", ["tokens", "--insecure"])
def test_with_tokens_or_behind_something_it_may_have_any_name(start_decode, tmp_path, flag):
    (tmp_path / "tokens").write_text("alice:" + hashlib.sha256(b"alice").hexdigest())
    _, api = start_decode(flag if flag != "tokens" else f"--api_tokens_file={tmp_path}/tokens", api_key="alice")
    answer = raw_answer(api, b"GET /health HTTP/1.1\r\nConnection: close\r\nHost: kvship.example.org\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_endless_headers_are_not_read(api):
    header = b"X-Filler: " + b"a" * 4000 + b"\r\n"
    answer = raw_answer(api, b"GET /v1/models HTTP/1.1\r\n" + header * 50)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"wanted at most 65536 bytes" in answer


@pytest.mark.parametrize("length", [9_000, 20_000, 100_000])
def test_the_bound_of_a_url_is_named(api, length):
    counted = 'kvship_decode_http_responses_total{status="414"}'
    before = api.metric(counted, 0)
    answer = raw_answer(api, b"GET /" + b"a" * length + b" HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 414 ")
    message = json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"]
    assert message == "the request's line, with the URL, is too long; wanted at most 8192 bytes"
    assert eventually(lambda: api.metric(counted, 0) == before + 1)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_an_encoded_body_is_refused_by_its_encoding(api, connection, coding):
    status, _, answer = ask(connection, {"model": api.model, "prompt": "Hi"}, headers={**JSON, "Content-Encoding": coding})
    assert status == 415
    assert f"Content-Encoding is '{coding}'; wanted it left out" in answer["error"]["message"]


def test_what_is_wrong_with_the_body_as_a_whole_has_no_param(api, connection):
    _, _, answer = ask(connection, [], "/v1/chat/completions")
    assert answer["error"]["message"] == "the body is []; wanted an object" and answer["error"]["param"] is None
    messages = [{"role": "user", "content": "", "x": 1}]
    _, _, answer = ask(connection, {"model": api.model, "messages": messages}, "/v1/chat/completions")
    assert answer["error"]["message"].startswith('messages[0] has the field "x"')


@pytest.mark.parametrize("progress", [False, True])
def test_comments_tell_of_progress_where_it_is_asked_for(api, connection, progress):
    begin = time.monotonic()
    connection.request("POST", "/v1/completions",
                       json.dumps({"model": api.model, "prompt": 2 * LONG, "max_tokens": 2, "stream": True,
                                   "kvship": {"progress": progress}}), JSON)
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream"
    events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    comments = [event for event in events[:-1] if not event.startswith("data: ")]
    assert all(re.fullmatch(": (queued|prefill [0-9]+%)", comment) for comment in comments)
    if progress:
        assert comments
    else:  # but for those that keep a connection awake
        assert len(comments) <= (time.monotonic() - begin) / 15


@pytest.mark.parametrize("headers", [b"", b"Connection: Keep-Alive\r\n"], ids=["plain", "keep-alive"])
def test_a_stream_to_a_client_of_http_1_0_ends_with_the_connection(api, headers):
    body = json.dumps({"model": api.model, "prompt": "Once", "max_tokens": 3, "stream": True}).encode()
    answer = raw_answer(api, b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n" + headers
                        + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head, events = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in head and b"Transfer-Encoding" not in head
    assert events.startswith((b": ", b"data: {")) and events.endswith(b"}\n\ndata: [DONE]\n\n")


def test_a_client_that_does_not_read_holds_up_nobody(api):
    body = json.dumps({"model": api.model, "prompt": "Once", "max_tokens": 8000, "stream": True, "logprobs": 20,
                       "ignore_eos": True}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", api.http_port))
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert eventually(api.pool_is_in_use)
        for _ in range(5):
            assert api.complete("Hi", max_tokens=8).usage.completion_tokens <= 8
        assert api.pool_is_in_use()
    assert api.becomes_idle()
