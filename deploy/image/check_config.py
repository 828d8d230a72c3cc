#!/usr/bin/env python3
"""Reads what `docker image inspect`, `podman image inspect` or `buildah inspect --type image` tell of the image on standard
input, and ends with a sentence where it is not what the Containerfile means: user, labels, health check, command.
"""

import json
import sys


def config_of(told):
    """The configuration, with its health check, in any of the three forms."""
    image = told[0] if isinstance(told, list) else told
    docker = image.get("Docker") or image  # buildah tells Docker's form beside OCI's
    config = docker.get("Config") or docker.get("config") or {}
    # podman keeps it beside the configuration.
    return {"Healthcheck": image.get("Healthcheck"), **config}


def faults(config, version):
    """Sentences on what is wrong."""
    labels = config.get("Labels") or {}
    found = {"user": config.get("User"), "command": config.get("Cmd"),
             "health check": (config.get("Healthcheck") or {}).get("Test"),
             "version": labels.get("org.opencontainers.image.version")}
    wanted = {"user": "65532:65532", "command": ["kvship"],
              "health check": ["CMD", "kvship-ready", "9051", "9090"], "version": version}
    wrong = [f"the image's {name} is {found[name]}; wanted {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    for name in ("title", "description", "revision", "licenses"):
        if not labels.get(f"org.opencontainers.image.{name}"):
            wrong.append(f"the image has no label org.opencontainers.image.{name}")
    return wrong


def main():
    wrong = faults(config_of(json.load(sys.stdin)), sys.argv[1])
    if wrong:
        sys.exit("check_config.py: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
