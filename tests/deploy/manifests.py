"""The objects that kustomizations give, built by `kubectl kustomize`, and what tests want to know of them."""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUSTOMIZE / "components").iterdir())
KUBECTL = Path(sys.executable).with_name("kubectl")

# One of each row; each other component with or without.
CHOICES = [("mtls", "plaintext"), ("model-image", "model-pvc"), ("", "autoscaling", "autoscaling-hpa"),
           ("", "cuda", "cuda nccl"), ("", "monitoring"), ("", "network-policy")]

Object = dict[str, Any]


def combinations() -> list[tuple[str, ...]]:
    """Every set of components that may go together."""
    return [tuple(" ".join(chosen).split()) for chosen in itertools.product(*CHOICES)]


def build(folder: Path) -> list[Object]:
    built = subprocess.run([KUBECTL, "kustomize", folder], check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert not built.stderr, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@lru_cache
def overlay(name: str) -> list[Object]:
    """Of an overlay, or of components with `+` between them."""
    if name in OVERLAYS:
        return build(KUSTOMIZE / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        return combination(tuple(name.split("+")), Path(folder).resolve())


def kustomization(folder: Path, resources: list[Path], **fields: Any) -> list[Object]:
    """What an overlay in `folder` of these resources gives; `fields` are others of its file."""
    text = yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [os.path.relpath(path, folder) for path in resources], **fields})
    folder.mkdir(exist_ok=True)
    (folder / "kustomization.yaml").write_text(text)
    return build(folder)


def combination(components: tuple[str, ...], folder: Path) -> list[Object]:
    """What an overlay in `folder` of the base and these components gives."""
    return kustomization(folder, [KUSTOMIZE / "base"], namespace="kvship",
                         components=[os.path.relpath(KUSTOMIZE / "components" / name, folder) for name in components])


def named(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_spec(object_: Object) -> Object:
    """Of a Deployment or a Pod."""
    return object_["spec"]["template"]["spec"] if object_["kind"] == "Deployment" else object_["spec"]


def container(object_: Object) -> Object:
    [only] = pod_spec(object_)["containers"]
    return only


def flag_files(objects: list[Object], role: str) -> dict[str, str]:
    """The files of the pod's volume `flags`, by their paths in the container."""
    deployment = named(objects, "Deployment", f"kvship-{role}")
    [mount] = [each["mountPath"] for each in container(deployment)["volumeMounts"] if each["name"] == "flags"]
    [volume] = [each for each in pod_spec(deployment)["volumes"] if each["name"] == "flags"]
    files: dict[str, str] = {}
    for source in volume["projected"]["sources"]:
        data = named(objects, "ConfigMap", source["configMap"]["name"])["data"]
        assert not files.keys() & data.keys()
        files |= {f"{mount}/{name}": text for name, text in data.items()}
    return files


def flag_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.removeprefix("--").partition("=")
            yield name, value


def flags(objects: list[Object], role: str) -> dict[str, str]:
    """What the pod's command line and its flag files set, each flag once; a switch is ''."""
    arguments = dict(flag_lines("\n".join(container(named(objects, "Deployment", f"kvship-{role}"))["args"])))
    files = flag_files(objects, role)
    named_files = arguments.pop("flagfile").split(",")
    assert sorted(named_files) == sorted(files)
    for name in named_files:
        for flag, value in flag_lines(files[name]):
            assert flag not in arguments, f"--{flag} is set twice"
            arguments[flag] = value
    return arguments


def seconds(duration: str) -> float:
    """A duration in the form of Abseil's flags."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration)
    assert "".join(number + unit for number, unit in parts) == duration
    return sum(float(number) * units[unit] for number, unit in parts)


def num_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi|)", quantity).groups()
    return int(number) * {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
