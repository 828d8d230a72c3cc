"""Every overlay and every set of components gives objects that Kubernetes takes, restricted as far as they can be."""

import importlib.util
import json
import os
import re
import textwrap

import custom_resources
import jsonschema
import kubernetes_validate
import manifests
import pytest
import yaml
from manifests import COMPONENTS, OVERLAYS, combinations, container, overlay, pod_spec

checked: set[str] = set()


def check_schema(object_):
    """Each different object once: combinations share most of theirs."""
    text = json.dumps(object_, sort_keys=True)
    if text in checked:
        return
    if custom_resources.is_custom(object_):
        custom_resources.check(object_)
    else:
        kubernetes_validate.validate(object_, kubernetes_validate.latest_version(), strict=True)
    checked.add(text)


def check_restricted(objects):
    """The Pod Security Standard `restricted`, and a root file system that nobody writes."""
    for owner in (each for each in objects if each["kind"] in ("Deployment", "Pod")):
        pod, program = pod_spec(owner), container(owner)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        allowed = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "projected", "secret"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
        security = program["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
        # Added ones would be lost: a program that does not run as root has none of them.
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in security


def check_references(objects):
    """What pods name is there, or is what an operator brings."""
    from_elsewhere = {"kvship-models", "kvship-api-tokens"}
    there = {each["metadata"]["name"] for each in objects}
    there |= {each["spec"]["secretName"] for each in objects if each["kind"] == "Certificate"}
    for deployment in (each for each in objects if each["kind"] == "Deployment"):
        pod = pod_spec(deployment)
        names = {pod["serviceAccountName"]}
        for volume in pod["volumes"]:
            names |= {source["configMap"]["name"] for source in volume.get("projected", {}).get("sources", [])}
            names |= {volume["secret"]["secretName"]} if "secret" in volume else set()
            names |= {volume["persistentVolumeClaim"]["claimName"]} if "persistentVolumeClaim" in volume else set()
        assert names <= there | from_elsewhere
        volumes = [each["name"] for each in pod["volumes"]]
        mounts = container(deployment)["volumeMounts"]
        assert sorted(volumes) == sorted(each["name"] for each in mounts)
        assert len({each["mountPath"] for each in mounts}) == len(mounts)


def test_each_component_is_in_some_combination():
    assert {name for components in combinations() for name in components} == set(COMPONENTS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_gives_objects_that_kubernetes_takes(name):
    objects = overlay(name)
    for each in objects:
        check_schema(each)
    check_references(objects)
    check_restricted(objects)
    [namespace] = [each for each in objects if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace") for each in objects if each is not namespace} == {"kvship"}


@pytest.mark.parametrize(("name", "version"), [("h200", "1.30"), ("demo", "1.33")])
def test_the_oldest_kubernetes_of_the_documentation_knows_all_fields(name, version):
    for each in overlay(name):
        if not custom_resources.is_custom(each):
            kubernetes_validate.validate(each, version, strict=True)


def test_the_pod_that_fills_the_models_volume_may_run_beside_the_others():
    objects = list(yaml.safe_load_all((manifests.KUSTOMIZE / "model-volume.yaml").read_text()))
    for each in objects:
        check_schema(each)
    check_restricted(objects)
    claim, pod = objects
    decode = manifests.named(overlay("h200"), "Deployment", "kvship-decode")
    assert pod_spec(pod)["securityContext"]["runAsUser"] == pod_spec(decode)["securityContext"]["runAsUser"]
    for each in pod, decode:
        claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod_spec(each)["volumes"]]
        assert claim["metadata"]["name"] in claims


@pytest.mark.parametrize("components", combinations(), ids="+".join)
def test_a_combination_gives_objects_that_kubernetes_takes(components, tmp_path):
    objects = manifests.combination(components, tmp_path)
    for each in objects:
        check_schema(each)
    check_references(objects)
    check_restricted(objects)
    scaled = any(name.startswith("autoscaling") for name in components)
    assert all(("replicas" in each["spec"]) != scaled for each in objects if each["kind"] == "Deployment")


@pytest.mark.parametrize("kind", ["Deployment", "ScaledObject", "Certificate", "PodMonitor"])
def test_the_checks_see_a_field_that_does_not_exist(kind):
    object_ = next(each for each in overlay("h200") if each["kind"] == kind)
    wrong = object_ | {"spec": object_["spec"] | {"replica": 2}}
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check_schema(wrong)


def test_rules_and_dashboards_are_those_of_the_monitoring_folder():
    component = manifests.KUSTOMIZE / "components" / "monitoring"
    spec = importlib.util.spec_from_file_location("generate", component / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (component / "prometheus-rule.yaml").read_text() == generate.prometheus_rule()
    dashboards = manifests.ROOT / "deploy" / "monitoring" / "dashboards"
    data = manifests.named(overlay("h200"), "ConfigMap", "kvship-dashboards")["data"]
    assert data == {path.name: path.read_text() for path in dashboards.glob("*.json")}


def images(objects) -> dict[str, str]:
    return {each["metadata"]["name"]: container(each)["image"] for each in objects if each["kind"] == "Deployment"}


@pytest.mark.parametrize("wrapped", ["demo", "h200", "model-pvc cuda plaintext"])
def test_an_overlay_over_another_names_registry_and_tag_of_the_image(wrapped, tmp_path):
    if wrapped in OVERLAYS:
        below = manifests.KUSTOMIZE / "overlays" / wrapped
    else:
        below = tmp_path / "below"
        below.mkdir()
        manifests.combination(tuple(wrapped.split()), below)
    for change, image in [({"newTag": "9"}, "kvship:9"),
                          ({"newName": "registry/kvship", "newTag": "9"}, "registry/kvship:9")]:
        objects = manifests.kustomization(tmp_path / "above", [below], images=[{"name": "kvship", **change}])
        assert images(objects) == {"kvship-prefill": image, "kvship-decode": image}


def test_an_overlay_over_the_demo_names_registry_and_tag_of_the_model(tmp_path):
    change = {"name": "kvship-model", "newName": "registry/model", "newTag": "9"}
    objects = manifests.kustomization(tmp_path / "above", [manifests.KUSTOMIZE / "overlays" / "demo"], images=[change])
    for role in ("prefill", "decode"):
        volumes = pod_spec(manifests.named(objects, "Deployment", f"kvship-{role}"))["volumes"]
        assert [each["image"]["reference"] for each in volumes if "image" in each] == ["registry/model:9"]


def documented_overlays() -> list[dict]:
    """The kustomizations, or parts of such, that docs/kubernetes.md shows."""
    text = (manifests.ROOT / "docs" / "kubernetes.md").read_text()
    fields = {"namespace", "resources", "components", "images", "labels", "patches", "replicas", "configMapGenerator"}
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines) and (match := re.match(r"\s*(\w+):", block)):
            if match[1] in fields:
                found.append(yaml.safe_load(textwrap.dedent(block)))
    return found


@pytest.mark.parametrize("shown", documented_overlays(), ids=lambda shown: "+".join(shown))
def test_what_the_documentation_shows_of_overlays_can_be_built(shown, tmp_path):
    demo = manifests.KUSTOMIZE / "overlays" / "demo"
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "namespace.yaml").write_text((demo / "namespace.yaml").read_text())
    for name in ("model", "decode"):
        (folder / f"{name}.flags").write_text("--changed\n")
    below = [path for path in shown.get("resources", ["../h200"]) if path != "namespace.yaml"]
    own = {"namespace.yaml"} & set(shown.get("resources", []))
    paths = [(demo / path).resolve() for path in below] + [folder / name for name in own]
    fields = {name: value for name, value in shown.items() if name != "resources"}
    components = {"components": [os.path.relpath((demo / path).resolve(), folder) for path in shown["components"]]
                  } if "components" in shown else {}
    objects = manifests.kustomization(folder, paths, **fields | components)
    for each in objects:
        check_schema(each)
    check_references(objects)
    check_restricted(objects)
    namespace = shown.get("namespace", "kvship")
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {namespace}
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Namespace"] == [namespace]
    if namespace != "kvship":
        for each in overlay("h200"):
            if each["kind"] in ("Certificate", "ScaledObject"):
                wanted = json.dumps(each["spec"]).replace('\\"kvship\\"', f'\\"{namespace}\\"')
                wanted = wanted.replace(".kvship.svc", f".{namespace}.svc")
                there = manifests.named(objects, each["kind"], each["metadata"]["name"])
                assert there["spec"] == json.loads(wanted)


def test_the_documentation_shows_overlays():
    assert {tuple(sorted(shown)) for shown in documented_overlays()} >= {("images",), ("labels",), ("patches",)}
