"""The worker's side of the comparison: one implementation in a process of its own, asked over pipes.

A line of JSON {"tokens": [...], "decode_tokens": n} comes in on stdin for each measurement; a line of JSON with
the figures goes out on stdout. The model stays loaded in between, so every measurement is a warm one.
"""

import json
import resource
import sys
import time


def serve(prefill, decode):
    """Answers until stdin ends.

    `prefill(tokens)` reads a prompt into an empty cache and returns the next token; `decode(token)` appends one
    token and returns the one after it.
    """
    out = sys.stdout
    sys.stdout = sys.stderr  # what the libraries print must not end up among the figures
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.perf_counter()
        token = prefill(request["tokens"])
        prefilled = time.perf_counter()
        for _ in range(request["decode_tokens"]):
            token = decode(token)
        end = time.perf_counter()
        figures = {
            "prefill_seconds": prefilled - begin,
            "decode_tokens_per_second": request["decode_tokens"] / (end - prefilled),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(figures), file=out, flush=True)
