"""The HTTP API under a load generator that others made: LLMeter, through OpenAI's client."""

import asyncio
import json

import pytest
from llmeter.endpoints import OpenAICompletionEndpoint, OpenAICompletionStreamEndpoint
from llmeter.runner import Runner

CLIENTS, REQUESTS, TOKENS = 3, 2, 8  # REQUESTS of each client


@pytest.mark.parametrize("kind", [OpenAICompletionStreamEndpoint, OpenAICompletionEndpoint])
def test_llmeter_measures_what_the_server_counts(api, tmp_path, kind):
    endpoint = kind(model_id=api.model, api_key="unused", provider="kvship",
                    base_url=f"http://127.0.0.1:{api.http_port}/v1")
    payload = endpoint.create_payload("Tell me about the sea.", max_tokens=TOKENS, temperature=0)
    names = [f"kvship_decode_{what}_tokens_total" for what in ("prompt", "output")]
    before = [api.metric(name) for name in names]
    runner = Runner(endpoint, output_path=str(tmp_path))
    stats = asyncio.run(runner.run(payload=payload, n_requests=REQUESTS, clients=CLIENTS)).stats
    assert stats["total_requests"] == REQUESTS * CLIENTS and stats["failed_requests"] == 0
    assert stats["total_output_tokens"] == TOKENS * REQUESTS * CLIENTS
    assert [api.metric(name) - count for name, count in zip(names, before, strict=True)] == [
        stats["total_input_tokens"], stats["total_output_tokens"]]
    if kind is OpenAICompletionStreamEndpoint:
        assert 0 < stats["time_to_first_token-p50"] < stats["time_to_last_token-p50"]
    saved = [json.loads(line) for path in tmp_path.rglob("responses.jsonl") for line in path.read_text().splitlines()]
    assert len(saved) == REQUESTS * CLIENTS
    assert len({response["response_text"] for response in saved}) == 1
