#!/usr/bin/env python3
"""Holds the tables of bench/results to what the benches' scripts make of the runs beside them."""

import json
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
sys.path[:0] = [str(ROOT / "bench/cpu"), str(ROOT / "bench/load"), str(ROOT / "demo")]
import compare  # noqa: E402
import curves  # noqa: E402


class Bench(unittest.TestCase):
    def test_prefill_ends_with_the_cache_as_decoding_reads_it(self):
        runs = {1000: {"ours": [{"prefill_seconds": 3.0, "compress_seconds": seconds} for seconds in (1.0, 2.0, 7.0)],
                       "theirs": [{"prefill_seconds": 4.0}]}}
        cells = compare.medians(runs)[1000]
        self.assertEqual([cells[name]["prefill_tokens_per_second"] for name in ("ours", "theirs")], [200, 250])

    def test_medians_are_of_the_runs(self):
        for path in RESULTS.glob("cpu*.json"):
            report = json.loads(path.read_text(encoding="utf-8"))
            made = compare.medians({int(length): runs for length, runs in report["runs"].items()})
            self.assertEqual(report["medians"], json.loads(json.dumps(made)), path.name)

    def test_the_table_of_loads_is_of_their_records(self):
        _, *records = map(json.loads, (RESULTS / "load.jsonl").read_text(encoding="utf-8").splitlines())
        self.assertEqual(curves.table(records), (RESULTS / "load.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
