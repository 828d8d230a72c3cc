"""The dashboard "Serving": latency, load, memory and rejections of both pools."""

from panels import curves, dashboard as make_dashboard, number, percentiles


def first_tokens_within(quantile: float) -> str:
    return (f"histogram_quantile({quantile}, "
            "sum by (le) (rate(kvship_decode_time_to_first_token_seconds_bucket{SELECT}WINDOW)))")


def requests(code: str) -> str:
    return f'sum(rate(kvship_decode_requests_total{{SELECT,code=~"{code}"}}WINDOW))'


def p95(histogram: str) -> str:
    return f"histogram_quantile(0.95, sum by (le) (rate({histogram}_bucket{{SELECT}}WINDOW)))"


FILL = "kvship_decode_pool_reserved_bytes{SELECT} / kvship_decode_pool_capacity_bytes{SELECT}"


def dashboard():
    return make_dashboard(
        "kvship-serving", "kvship: Serving", "Latency, load, memory and rejections", [
            number("Requests", "reqps", requests(".*"), "That ended, whatever their outcome"),
            number("First token, p95", "s", first_tokens_within(0.95), "From a request's arrival"),
            number("Pool in use", "percentunit", f"max({FILL})", "Of the fullest decode node"),
            number("Rejected", "percentunit", f"{requests('RESOURCE_EXHAUSTED')} / {requests('.*')}",
                   "Share of requests that ended with RESOURCE_EXHAUSTED"),
            curves("Time to first token", "s", percentiles("kvship_decode_time_to_first_token_seconds"),
                   "From a request's arrival to its first output token"),
            curves("Time between tokens", "s", percentiles("kvship_decode_time_between_tokens_seconds"),
                   "From an output token to the next one of its request"),
            curves("Requests by outcome", "reqps",
                   {"{{code}}": "sum by (code) (rate(kvship_decode_requests_total{SELECT}WINDOW)) > 0"},
                   "By gRPC status code", stacked=True),
            curves("Tokens", "short",
                   {"prompt": "sum(rate(kvship_decode_prompt_tokens_total{SELECT}WINDOW))",
                    "prompt, not read anew": "sum(rate(kvship_prefill_reused_tokens_total{SELECT}WINDOW))",
                    "output": "sum(rate(kvship_decode_output_tokens_total{SELECT}WINDOW))"},
                   "Per second, of prompts whose caches have come and of outputs that have ended; not read anew: earlier prompts"
                   " began alike"),
            curves("KV pool in use", "percentunit", {"{{instance}}": FILL}, "By decode node"),
            curves("Waiting", "short",
                   {"prompt tokens in line for memory": "sum(kvship_decode_line_prompt_tokens{SELECT})",
                    "prompt tokens admitted by prefill nodes": "sum(kvship_prefill_queue_tokens{SELECT})"},
                   "What the two pools have before them"),
            curves("Running", "short",
                   {"sessions": "sum(kvship_decode_sessions{SELECT})",
                    "sessions in a decode step, on average":
                        "sum(rate(kvship_decode_batch_sessions_sum{SELECT}WINDOW))"
                        " / sum(rate(kvship_decode_batch_sessions_count{SELECT}WINDOW))",
                    "caches being sent": "sum(kvship_prefill_sending_requests{SELECT})",
                    "prompts being read": "sum(kvship_prefill_active_requests{SELECT})",
                    "prompts that wait": "sum(kvship_prefill_queue_requests{SELECT})"},
                   "Requests in each state"),
            curves("Where a prompt's time goes, p95", "s",
                   {"queue": p95("kvship_prefill_queue_seconds"), "compute": p95("kvship_prefill_compute_seconds"),
                    "compression": p95("kvship_prefill_compress_seconds"),
                    "transfer": p95("kvship_decode_transfer_seconds")},
                   "On the prefill node, and the part of the transfer that requests wait for"),
            curves("Nodes ready", "short",
                   {"decode": "sum(kvship_decode_ready{SELECT})", "prefill": "sum(kvship_prefill_ready{SELECT})"},
                   "That welcome new requests"),
            curves("Rejections", "reqps",
                   {"{{reason}}": "sum by (reason) (rate(kvship_decode_rejections_total{SELECT}WINDOW))",
                    "by prefill nodes":
                        'sum(rate(kvship_prefill_requests_total{SELECT,code="RESOURCE_EXHAUSTED"}WINDOW))'},
                   "By what there was too little of; before a decode node rejects for prefill nodes, it tries the others"),
            curves("Tokens by client", "short",
                   {"{{client}}": 'sum by (client) (rate(kvship_decode_client_tokens_total{SELECT,kind!="reused"}WINDOW))'},
                   "Prompt and output tokens per second; a client is the name of an API token or certificate", stacked=True),
        ])
