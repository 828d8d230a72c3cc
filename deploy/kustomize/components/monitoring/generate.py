#!/usr/bin/env python3
"""Writes prometheus-rule.yaml beside this file: the rules of deploy/monitoring/rules as an object of the Prometheus operator."""

from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
RULES = HERE.parents[2] / "monitoring" / "rules"
HEAD = "# Made by generate.py of the files in deploy/monitoring/rules.\n"


class BlockDumper(yaml.SafeDumper):
    """Texts of several lines stay such."""


def represent_text(dumper, text):
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


BlockDumper.add_representer(str, represent_text)


def prometheus_rule() -> str:
    groups = [group for path in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"]]
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
            "metadata": {"name": "kvship", "labels": {"app.kubernetes.io/name": "kvship"}}, "spec": {"groups": groups}}
    return HEAD + yaml.dump(rule, Dumper=BlockDumper, sort_keys=False, width=120)


if __name__ == "__main__":
    (HERE / "prometheus-rule.yaml").write_text(prometheus_rule())
