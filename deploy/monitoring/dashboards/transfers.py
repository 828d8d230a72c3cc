"""The dashboard "Transfers": the way of caches from prefill to decode nodes."""

from panels import curves, dashboard as make_dashboard, number, percentiles

SHIPPED = "rate(kvship_decode_kv_shipped_bytes_total{SELECT}WINDOW)"
RECEIVING = "rate(kvship_decode_kv_receive_seconds_total{SELECT}WINDOW)"
FAILURES = "rate(kvship_decode_prefill_failures_total{SELECT}WINDOW)"


def seconds_left(program: str) -> str:
    return f"kvship_{program}_certificate_not_after_timestamp_seconds{{SELECT}} - time()"
NCCL_BYTES = "rate(kvship_decode_nccl_transferred_bytes_total{SELECT}WINDOW)"


def nccl_of_both(what: str) -> str:
    return " or ".join(f"{what.replace('PROGRAM', program)}" for program in ("prefill", "decode"))


def dashboard():
    return make_dashboard(
        "kvship-transfers", "kvship: Transfers", "The way of caches from prefill to decode nodes", [
            number("Shipped", "Bps", f"sum({SHIPPED})", "Bytes of caches per second"),
            number("Speed", "Bps", f"sum({SHIPPED}) / sum({RECEIVING})",
                   "Bytes per second while a layer is coming in"),
            number("Failures", "percentunit",
                   f"sum({FAILURES}) / sum(rate(kvship_decode_requests_total{{SELECT}}WINDOW))",
                   "Prompts that a prefill node did not deliver, per request"),
            number("First certificate expires in", "s",
                   f"min({seconds_left('decode')} or {seconds_left('prefill')})", "Of all nodes"),
            curves("Shipped by prefill node", "Bps",
                   {"{{instance}}": "rate(kvship_prefill_shipped_bytes_total{SELECT}WINDOW)"},
                   "Bytes of caches per second"),
            curves("Speed by decode node", "Bps",
                   {"{{instance}}": f"sum by (instance) ({SHIPPED}) / sum by (instance) ({RECEIVING})"},
                   "Bytes per second while a layer is coming in: of the network, or of the checks where that is faster"),
            curves("Transfer time that requests wait for", "s", percentiles("kvship_decode_transfer_seconds"),
                   "From the end of the last layer's computation to the verified cache"),
            curves("Time in which caches come in", "percentunit", {"{{instance}}": RECEIVING},
                   "Share of time, by decode node; above 1 where several come at a time"),
            curves("Sent and not taken yet", "decbytes", {"{{instance}}": "kvship_prefill_outbox_bytes{SELECT}"},
                   "By prefill node: what slow readers leave"),
            curves("Failures by code", "short",
                   {"{{code}}": f"sum by (code) ({FAILURES})",
                    "sent to another node": "sum(rate(kvship_decode_prefill_retries_total{SELECT}WINDOW))"},
                   "Per second: UNAVAILABLE is a lost node, INTERNAL one that failed, DATA_LOSS a broken cache"),
            curves("By NCCL", "Bps", {"{{instance}}": NCCL_BYTES},
                   "Bytes of caches per second that came from GPU to GPU, by decode node; the rest came over gRPC"),
            curves("Over gRPC though there is NCCL, by reason", "short",
                   {"{{reason}}": "sum by (reason) (" + nccl_of_both(
                       "rate(kvship_PROGRAM_nccl_fallbacks_total{SELECT}WINDOW)") + ")"},
                   "Frames per second, as both ends count them: not_ready while a communicator is made"),
            curves("Communicators by state", "short",
                   {"{{state}}": "sum by (state) (" + nccl_of_both("kvship_PROGRAM_nccl_communicators{SELECT}") + ")"},
                   "Of both ends, each counts its own; closing ones that stay are aborts that hang"),
        ])
