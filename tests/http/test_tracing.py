"""Traces through a decode and a prefill process, as a collector gets them."""

import http.client
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import openai
import pytest
from conftest import LONG, Api, eventually, server_pair
from kvship.v1 import generation_pb2, generation_pb2_grpc

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

# What a message takes between two processes on a machine that does other things too.
END_LEEWAY_NS = 500_000_000

# Each span and the one above it.
ABOVE = {"request": None, "queue": "request", "prefill attempt": "request", "decode": "request", "first decode": "decode",
         "transfer": "prefill attempt", "prefill": "prefill attempt", "prefill queue": "prefill", "compute": "prefill",
         "compress": "prefill"}
OF_PREFILL = {"prefill", "prefill queue", "compute", "compress"}


class Collector:
    """Keeps the spans it is sent, each with the service that sent it."""

    def __init__(self):
        self.spans = spans = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
                for resource in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["resourceSpans"]:
                    service = resource["resource"]["attributes"][0]["value"]["stringValue"]
                    spans.extend({"service": service, **span} for span in resource["scopeSpans"][0]["spans"])
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of_trace(self, trace: str) -> dict:
        """The spans of a trace by name, once its request has ended at both nodes."""
        def spans():
            return {span["name"]: span for span in self.spans if span["traceId"] == trace}
        assert eventually(lambda: {"request", "prefill"} <= spans().keys())
        return spans()


def nanoseconds(span) -> tuple[int, int]:
    return int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])


def attribute(span, name: str):
    return next((next(iter(each["value"].values())) for each in span["attributes"] if each["key"] == name), None)


@pytest.fixture(scope="module")
def collector():
    made = Collector()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def traced(collector, tmp_path_factory):
    """A pair of processes that send their spans to the collector, as their environment says."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
    try:
        with server_pair(tmp_path_factory.mktemp("traced"), "--log_format=json") as pair:
            yield pair
    finally:
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]


@pytest.fixture(scope="module")
def traced_api(traced):
    return Api(traced.http_port, traced.ports["decode-admin-port"])


def complete(api, prompt=LONG[:4000], fields={}, **headers):
    return api.client.completions.with_raw_response.create(
        model=api.model, prompt=prompt, max_tokens=4, extra_body={"ignore_eos": True, **fields}, extra_headers=headers)


def test_a_request_is_one_trace_through_both_nodes(traced_api, collector):
    before = time.time_ns()
    answer = complete(traced_api, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="congo=t61rcWkgMzE")
    after = time.time_ns()
    spans = collector.of_trace(TRACE)
    assert spans.keys() == ABOVE.keys()
    assert spans["request"]["parentSpanId"] == CALLER
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{spans['request']['spanId']}-01"
    for name, span in spans.items():
        assert span["service"] == ("kvship-prefill" if name in OF_PREFILL else "kvship-decode"), name
        assert span["traceState"] == "congo=t61rcWkgMzE"
        assert "status" not in span
        begin, end = nanoseconds(span)
        assert before <= begin <= end <= after + END_LEEWAY_NS, name
        if ABOVE[name]:
            assert span["parentSpanId"] == spans[ABOVE[name]]["spanId"], name
            # The nodes' ends of one call are told apart by how long a message takes.
            above = nanoseconds(spans[ABOVE[name]])
            assert above[0] - 1_000_000 <= begin and end <= above[1] + END_LEEWAY_NS, name
    assert len({span["spanId"] for span in spans.values()}) == len(ABOVE)
    assert nanoseconds(spans["queue"])[1] <= nanoseconds(spans["compute"])[0] <= nanoseconds(spans["transfer"])[0]
    assert nanoseconds(spans["transfer"])[1] <= nanoseconds(spans["decode"])[0] + 1_000_000
    request_id = answer.headers["x-request-id"]
    assert attribute(spans["request"], "kvship.request_id") == attribute(spans["prefill"], "kvship.request_id") == request_id
    assert attribute(spans["prefill"], "kvship.shipped_bytes") == attribute(spans["request"], "kvship.shipped_bytes")
    assert attribute(spans["compute"], "kvship.busy_ms") > attribute(spans["compress"], "kvship.busy_ms") > 0


def test_the_ids_are_in_the_logs_of_both_nodes(traced, traced_api):
    trace = "a" * 32
    request_id = complete(traced_api, traceparent=f"00-{trace}-{CALLER}-01").headers["x-request-id"]

    def lines_of(server) -> list[str]:
        with open(server.log_path, encoding="utf-8") as log:
            return [line for line in log if request_id in line]

    prefill, decode = traced.servers
    assert eventually(lambda: lines_of(prefill) and lines_of(decode))
    (of_prefill,), (of_decode,) = lines_of(prefill), lines_of(decode)
    assert f'request ended request_id="{request_id}" trace_id="{trace}" code="OK"' in of_prefill
    line = json.loads(of_decode)
    assert (line["message"], line["code"], line["trace_id"]) == ("request ended", "OK", trace)


def test_a_refusal_has_its_clients_trace_in_the_log(traced, traced_api):
    trace = "d" * 32
    with pytest.raises(openai.BadRequestError) as refused:
        complete(traced_api, traceparent=f"00-{trace}-{CALLER}-01", fields={"temperature": -1})
    request_id = refused.value.response.headers["x-request-id"]
    with open(traced.servers[1].log_path, encoding="utf-8") as log:
        (line,) = [json.loads(line) for line in log if request_id in line]
    assert (line["message"], line["trace_id"]) == ("request refused", trace)


def test_what_is_not_sampled_is_handed_on_and_not_sent(traced, traced_api, collector):
    trace = "b" * 32
    answer = complete(traced_api, traceparent=f"00-{trace}-{CALLER}-00")
    assert answer.headers["traceresponse"] == f"00-{trace}-{CALLER}-00"
    marker = "c" * 32
    complete(traced_api, traceparent=f"00-{marker}-{CALLER}-01")
    collector.of_trace(marker)
    assert not any(span["traceId"] == trace for span in collector.spans)
    with open(traced.prefill.log_path, encoding="utf-8") as log:
        assert f'trace_id="{trace}"' in log.read()


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-xyz"}, {"traceparent": f"00-{'0' * 32}-{CALLER}-01"}])
def test_without_a_trace_one_begins_here(traced_api, collector, headers):
    answer = complete(traced_api, **headers)
    trace = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-01", answer.headers["traceresponse"]).group(1)
    assert collector.of_trace(trace)["request"]["parentSpanId"] == ""


def trace_of(api, *headers) -> str:
    """That of the answer to a request with these headers, of which some may have the same name."""
    body = json.dumps({"model": api.model, "prompt": "Hi", "max_tokens": 1}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", api.http_port, timeout=60)
    connection.putrequest("POST", "/v1/completions")
    for name, value in [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]:
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    assert answer.status == 200
    connection.close()
    return answer.headers["traceresponse"].split("-")[1]


def test_of_several_callers_none_is_believed(traced_api):
    first, second = "1" * 32, "2" * 32
    callers = [("traceparent", f"00-{trace}-{CALLER}-01") for trace in (first, second)]
    assert trace_of(traced_api, callers[0]) == first
    assert trace_of(traced_api, *callers) not in (first, second)


def test_several_states_are_one_list(traced_api, collector):
    trace = "3" * 32
    trace_of(traced_api, ("traceparent", f"00-{trace}-{CALLER}-01"), ("tracestate", "congo=1,rojo=2"),
             ("tracestate", "vendor=3"))
    assert collector.of_trace(trace)["request"]["traceState"] == "congo=1,rojo=2,vendor=3"


def test_a_call_over_grpc_brings_its_trace_as_metadata(traced, collector):
    trace = "1d" * 16
    with grpc.insecure_channel(f"127.0.0.1:{traced.ports['decode-port']}") as channel:
        call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
            generation_pb2.GenerateRequest(prompt="One, two,", max_tokens=2),
            metadata=[("traceparent", f"00-{trace}-{CALLER}-01"), ("tracestate", "congo=1"), ("tracestate", "rojo=2")],
            timeout=60)
        report = list(call)[-1].report
        assert report.usage.output_tokens == 2
        assert not report.kv.layers, "nobody asked for them"
        spans = collector.of_trace(trace)
        assert dict(call.initial_metadata())["traceresponse"] == f"00-{trace}-{spans['request']['spanId']}-01"
    assert spans["request"]["parentSpanId"] == CALLER
    assert spans["request"]["traceState"] == "congo=1,rojo=2"


def test_a_request_that_fails_says_so(traced_api, collector):
    trace = "e" * 32
    with pytest.raises(Exception, match="tokens"):
        complete(traced_api, prompt=[7] * 10_000, traceparent=f"00-{trace}-{CALLER}-01")
    assert eventually(lambda: any(span["traceId"] == trace for span in collector.spans))
    request, = (span for span in collector.spans if span["traceId"] == trace and span["name"] == "request")
    assert request["status"] == {"code": 2, "message": "FAILED_PRECONDITION"}


def test_a_request_that_runs_out_of_time_tells_how_long_its_prompt_was(traced_api, collector):
    trace = "9b" * 16
    with pytest.raises(Exception, match="deadline"):
        traced_api.client.completions.create(
            model=traced_api.model, prompt=[7] * 4000, extra_body={"kvship": {"timeout_ms": 200}},
            extra_headers={"traceparent": f"00-{trace}-{CALLER}-01"})
    spans = lambda: [span for span in collector.spans if span["traceId"] == trace and span["name"] == "request"]
    assert eventually(spans)
    assert attribute(spans()[0], "kvship.prompt_tokens") == "4000"


def test_an_endpoint_that_is_down_costs_a_count(start_decode):
    server, api = start_decode("--otlp_endpoint=http://127.0.0.1:1")
    answers = [complete(api, prompt="Hi") for _ in range(5)]
    assert all(answer.status_code == 200 for answer in answers)
    assert eventually(lambda: api.metric("kvship_decode_trace_spans_dropped_total") >= 5 * 5)
    assert api.metric("kvship_decode_trace_spans_exported_total") == 0
    begin = time.monotonic()
    server.stop()
    assert server.process.returncode == 0 and time.monotonic() - begin < 8
    with open(server.log_path, encoding="utf-8") as log:
        assert log.read().count("spans are dropped") == 1
