"""The HTTP port with tokens and TLS, and that no prompt gets into a log."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from conftest import LONG, eventually

MARKER = "xylophone-7141"


@pytest.fixture
def tokens(tmp_path) -> str:
    """The flag for a file with the tokens of alice and bob."""
    path = tmp_path / "tokens"
    path.write_text("# who may come\n" + "".join(
        f"{name}:{hashlib.sha256(f'token of {name}'.encode()).hexdigest()}\n" for name in ("alice", "bob")))
    return f"--api_tokens_file={path}"


def test_only_a_known_token_is_served(start_decode, tokens):
    _, api = start_decode(tokens, api_key="token of alice")
    assert api.chat("Hi", max_tokens=1).usage.completion_tokens == 1
    stranger = api.connect("token of carol")
    for call in [stranger.models.list, lambda: stranger.completions.create(model=api.model, prompt="Hi", max_tokens=1)]:
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert refused.value.code == "invalid_api_key"


def health(api) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=5)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_who_has_no_token_may_ask_whether_requests_are_welcome(start_decode, tokens):
    server, api = start_decode(tokens, "--drain_timeout=20s", api_key="token of alice")
    assert health(api) == (200, b"ready\n")
    with api.chat(LONG, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        server.process.terminate()
        assert eventually(lambda: health(api) == (503, b"not ready\n"))


def test_without_a_token_the_body_is_not_read(start_decode, tokens):
    _, api = start_decode(tokens, api_key="token of alice")
    connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=30)
    connection.request("POST", "/v1/completions", headers={"Content-Length": "1000000"})
    answer = connection.getresponse()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer" and answer.headers["Connection"] == "close"
    assert b"authorization: Bearer TOKEN" in answer.read()


def test_a_client_has_no_more_requests_at_a_time_than_it_may(start_decode, tokens):
    _, api = start_decode(tokens, "--max_client_requests=1", api_key="token of alice")
    with api.chat(LONG, stream=True, max_tokens=1000) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            api.chat("Hi", max_tokens=1)
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        bob = api.connect("token of bob")
        assert bob.completions.create(model=api.model, prompt="Hi", max_tokens=1).usage.completion_tokens == 1
    assert api.becomes_idle()
    assert api.chat("Hi", max_tokens=1).usage.completion_tokens == 1


def test_requests_and_tokens_are_counted_by_client(start_decode, tokens):
    _, api = start_decode(tokens, api_key="token of alice")
    usage = api.chat("Hi", max_tokens=3, extra_body={"ignore_eos": True}).usage
    api.connect("token of bob").models.list()
    with pytest.raises(openai.AuthenticationError):
        api.connect("token of carol").completions.create(model=api.model, prompt="Hi", max_tokens=1)
    with urllib.request.urlopen(f"http://127.0.0.1:{api.admin_port}/metrics") as metrics:
        told = metrics.read().decode()
    for series, value in [('tokens_total{client="alice",kind="prompt"}', usage.prompt_tokens),
                          ('tokens_total{client="alice",kind="output"}', usage.completion_tokens),
                          ('requests_total{client="alice",code="OK"}', 1),
                          ('requests_total{client="(none)",code="UNAUTHENTICATED"}', 1)]:
        assert f"kvship_decode_client_{series} {value}\n" in told
    assert 'client="bob"' not in told  # whoever asks for models alone uses none


def test_bodies_that_do_not_come_are_their_clients_requests(start_decode, tokens):
    _, api = start_decode(tokens, "--max_client_requests=1", "--max_http_requests=2", api_key="token of alice")
    waiting = [http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=30) for _ in range(3)]
    for connection in waiting:
        connection.request("POST", "/v1/completions", headers={
            "Content-Type": "application/json", "Content-Length": "1000", "Authorization": "Bearer token of alice"})
    rejections = 'kvship_decode_rejections_total{reason="client"}'
    assert eventually(lambda: api.metric(rejections, 0) == 2)
    bob = api.connect("token of bob")
    assert bob.completions.create(model=api.model, prompt="Hi", max_tokens=1).usage.completion_tokens == 1
    for connection in waiting:
        connection.close()
    assert eventually(lambda: api.metric('kvship_decode_requests_total{code="INVALID_ARGUMENT"}', 0) == 1)
    assert api.complete("Hi", max_tokens=1).usage.completion_tokens == 1


def test_few_bodies_are_parsed_at_a_time(start_decode):
    body = b'{"model": "m", "prompt": "Hi", "metadata": {"a": [' + b"1," * 4_000_000 + b"1]}}"
    server, api = start_decode(f"--max_message_bytes={len(body)}")

    def most_memory() -> int:
        with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

    def status_of(body: bytes) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=120)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        return connection.getresponse().status

    before = most_memory()
    with ThreadPoolExecutor(max_workers=6) as pool:
        assert list(pool.map(status_of, [body] * 6)) == [404] * 6
    assert most_memory() - before < 40 * len(body)


def test_choices_that_a_clients_limits_never_let_in_together_are_a_400(start_decode):
    _, api = start_decode("--max_client_requests=3", f"--max_client_bytes={30 << 20}")
    assert len(api.complete("Hi", n=3, max_tokens=1).choices) == 3
    for fields, param in [({"prompt": "Hi", "n": 4}, "n"), ({"prompt": ["Hi"] * 4}, "prompt"),
                          ({"prompt": "Hi", "n": 3, "max_tokens": 1000}, "n"),
                          ({"prompt": ["Hi"] * 3, "max_tokens": 1000}, "prompt")]:
        with pytest.raises(openai.BadRequestError) as refused:
            api.complete(**{"max_tokens": 1, **fields})
        assert refused.value.param == param, fields
        assert "one client may" in refused.value.message
    assert api.metric('kvship_decode_requests_total{code="FAILED_PRECONDITION"}') == 4
    assert api.complete("Hi", max_tokens=1000, extra_body={"stop": "a"}).choices[0].finish_reason == "stop"


def test_no_prompt_gets_into_the_logs_and_metrics(servers, start_decode, tokens):
    server, api = start_decode(tokens, api_key="token of alice")
    api.chat(f"The word is {MARKER}.", max_tokens=2)
    for wrong in [{"stop": [MARKER] * 20}, {"extra_body": {MARKER: 1}}, {"temperature": MARKER}, {"max_tokens": 10**6},
                  {"prompt": [MARKER, 1]}, {"extra_body": {"kvship": {"compression": f"scorer={MARKER}"}}}]:
        with pytest.raises(openai.BadRequestError):
            api.client.completions.create(**{"model": api.model, "prompt": MARKER * 9, **wrong})
    told = ""
    for path in [server.log_path, *(each.log_path for each in servers.servers)]:
        with open(path, encoding="utf-8") as log:
            told += log.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{api.admin_port}/metrics") as metrics:
        told += metrics.read().decode()
    assert 'client="alice"' in told
    assert MARKER not in told and "token of" not in told


def make_certificate(folder, name: str) -> list[str]:
    """A certificate for 127.0.0.1 that signs itself, and its key: their files."""
    files = [str(folder / f"{name}.pem"), str(folder / f"{name}.key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.fixture
def tls(start_decode, tmp_path):
    """The API of a decode process over TLS, the certificate's files, and the process."""
    files = make_certificate(tmp_path, "served")
    server, api = start_decode(f"--tls_cert={files[0]}", f"--tls_key={files[1]}", certificate=files[0])
    return api, files, server


def test_answers_and_streams_come_over_tls(tls):
    api, _, _ = tls
    fields = {"max_tokens": 40, "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = api.complete(LONG, **fields)
    chunks = api.complete(LONG, stream=True, **fields)
    assert whole.usage.completion_tokens == 40
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks)


def test_a_client_that_goes_frees_its_pages_over_tls(tls):
    api, _, _ = tls
    with api.chat(LONG, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    assert api.becomes_idle()


def test_a_client_that_says_goodbye_before_the_answer_is_let_go(tls):
    api, files, server = tls
    body = json.dumps({"model": api.model, "prompt": LONG, "max_tokens": 1000, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    raw = socket.create_connection(("127.0.0.1", api.http_port), timeout=30)
    client = ssl.create_default_context(cafile=files[0]).wrap_socket(raw, server_hostname="127.0.0.1")
    client.sendall(head.encode() + body)
    assert eventually(api.pool_is_in_use)
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()  # sends the goodbye, and does not wait for the server's
    client.close()
    assert api.becomes_idle()
    server.stop()
    assert server.process.returncode == 0


def test_a_replaced_certificate_is_shown_to_new_connections(tls, tmp_path):
    api, files, _ = tls
    old = ssl.create_default_context(cafile=shutil.copy(files[0], tmp_path / "old.pem"))
    next_files = make_certificate(tmp_path, "next")
    new = ssl.create_default_context(cafile=next_files[0])

    def is_shown_to(trust: ssl.SSLContext) -> bool:
        connection = http.client.HTTPSConnection("127.0.0.1", api.http_port, timeout=30, context=trust)
        try:
            connection.request("GET", "/v1/models")
        except ssl.SSLCertVerificationError:
            return False
        return connection.getresponse().status == 200

    assert is_shown_to(old)
    for source, target in zip(next_files, files):
        os.replace(source, target)
    assert eventually(lambda: is_shown_to(new))
    assert not is_shown_to(old)


def test_plain_text_is_not_answered_on_a_tls_port(tls):
    api, _, _ = tls
    with socket.create_connection(("127.0.0.1", api.http_port), timeout=30) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in client.recv(1000)
