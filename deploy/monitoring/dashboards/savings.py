"""The dashboard "Cache savings": what the compression of caches saves on the wire and in the decode nodes' memory."""

from panels import curves, dashboard as make_dashboard, number

POLICY = "{{model}} {{scorer}}/{{allocator}}/{{selector}} {{encoder}}"


def bytes_of(what: str) -> str:
    return f"sum(rate(kvship_decode_kv_{what}_bytes_total{{SELECT}}WINDOW))"


def bytes_by_policy(what: str) -> str:
    return ("sum by (model, scorer, allocator, selector, encoder) ("
            f"rate(kvship_decode_kv_{what}_bytes_total{{SELECT}}WINDOW)"
            " * on (namespace, job, instance) group_left (model) kvship_decode_model_info{SELECT})")


def mass(quantity: str) -> str:
    return f"rate(kvship_decode_retained_mass_ratio_{quantity}{{SELECT}}WINDOW)"


TIMES = "suffix:x"  # a unit of Grafana's: what stands behind the number
POLICY_LABELS = "scorer, allocator, selector"
SPEED = f"{bytes_of('shipped')} / sum(rate(kvship_decode_kv_receive_seconds_total{{SELECT}}WINDOW))"
CACHES = "sum(rate(kvship_decode_transfer_seconds_count{SELECT}WINDOW))"  # that have come, as their bytes are counted
USED = "sum(kvship_decode_pool_reserved_bytes{SELECT})"
SAVED = "sum(kvship_decode_memory_saved_bytes{SELECT})"


def dashboard():
    return make_dashboard(
        "kvship-savings", "kvship: Cache savings", "What compressing caches saves, on the wire and in memory", [
            number("Compression ratio", TIMES, f"{bytes_of('uncompressed')} / {bytes_of('shipped')}",
                   "Bytes before compression per byte that was shipped"),
            number("Bytes not shipped", "decbytes", "sum(increase(kvship_decode_kv_saved_bytes_total{SELECT}[$__range]))",
                   "In the time range that is shown"),
            number("Decode memory saved", "decbytes", SAVED, "Now, by the caches of running requests"),
            number("Retained mass", "percentunit", f"sum({mass('sum')}) / sum({mass('count')})",
                   "The mean share of the window's attention that falls on kept tokens"),
            curves("Cache bytes", "Bps", {"before compression": bytes_of("uncompressed"),
                                          "shipped": bytes_of("shipped"), "saved": bytes_of("saved")},
                   "Bytes of prompts' caches that have come, per second"),
            curves("Compression ratio by model and policy", TIMES,
                   {POLICY: f"{bytes_by_policy('uncompressed')} / {bytes_by_policy('shipped')}"},
                   "Bytes before compression per byte that was shipped"),
            curves("Decode memory", "decbytes", {"handed out": USED, "saved": SAVED},
                   "Bytes of the KV pools, and what whole prompts would take beyond them", stacked=True),
            curves("Network time saved per request", "s",
                   {"saved": f"{bytes_of('saved')} / ({SPEED}) / {CACHES}"},
                   "How long the bytes that stayed behind would have taken at the measured speed; an upper bound where"
                   " layers are small or processors busy, so that the network is not what takes the time"),
            curves("Retained mass by policy", "percentunit", {
                "{{scorer}}/{{allocator}}/{{selector}} mean":
                    f"sum by ({POLICY_LABELS}) ({mass('sum')}) / sum by ({POLICY_LABELS}) ({mass('count')})",
                "{{scorer}}/{{allocator}}/{{selector}} p5":
                    f"histogram_quantile(0.05, sum by ({POLICY_LABELS}, le) ({mass('bucket')}))"},
                   "Share of the window's attention on kept tokens: the mean over requests, and the worst in twenty"),
            curves("Tokens kept", "percentunit",
                   {"kept": "sum(rate(kvship_decode_kept_tokens_total{SELECT}WINDOW))"
                            " / sum(rate(kvship_decode_prompt_tokens_total{SELECT}WINDOW))"},
                   "Share of prompt tokens that heads keep on average"),
        ])
