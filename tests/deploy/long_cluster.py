"""The overlay demo, and the pods of its flags with mutual TLS, in a real cluster, each in a namespace of its own.

    KVSHIP_CLUSTER=CONTEXT ./dev test --long -R deploy/long_cluster

CONTEXT is one of kubectl's configuration. The images are those of ./dev image, and have to be where the nodes find them
(docs/kubernetes.md). Nothing else has to be in the cluster: certificates are made here."""

import base64
import hashlib
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from certificates import make_authority, make_certificate, wanted
from manifests import KUBECTL, KUSTOMIZE, ROOT, Object, container, kustomization, named, pod_spec

CONTEXT = os.environ.get("KVSHIP_CLUSTER", "")
if not CONTEXT:
    pytest.skip("KVSHIP_CLUSTER names no cluster", allow_module_level=True)

ROLES = ("prefill", "decode")
ADMIN_PORTS = {"prefill": 9051, "decode": 9090}
TOKEN = "the-token-of-the-tests"


def until(holds, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1)


class Pools:
    """Both pools in a namespace of the cluster, and a pod for clients."""

    def __init__(self, namespace: str, objects: list[Object]):
        self.namespace = namespace
        self.objects = objects

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run([KUBECTL, f"--context={CONTEXT}", f"--namespace={self.namespace}", *arguments], check=False,
                              capture_output=True, text=True, input=given)
        assert not check or done.returncode == 0, done.stderr
        return done

    def get(self, *arguments: str) -> list[Object]:
        return json.loads(self.kubectl("get", "--output=json", *arguments).stdout)["items"]

    def start(self) -> None:
        self.kubectl("apply", "--filename=-", given=yaml.safe_dump_all([*self.objects, self.client()]))
        self.wait()
        self.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=2m")

    def wait(self) -> None:
        for role in ROLES:
            self.kubectl("rollout", "status", f"deployment/kvship-{role}", "--timeout=5m")
        until(lambda: all(self.value("decode", pod, 'kvship_decode_prefill_nodes{standing="serving"}') ==
                          len(self.pods("prefill")) for pod in self.pods("decode")))

    def stop(self) -> None:
        # First the pods: a namespace that still has some is looked at again after half of their grace, which is minutes.
        self.kubectl("delete", "deployment,pod", "--all", "--cascade=foreground", "--timeout=5m")
        self.kubectl("delete", "namespace", self.namespace, "--timeout=5m")

    def client(self) -> Object:
        """A pod of the decode pods' image in which clients are run."""
        pod = pod_spec(named(self.objects, "Deployment", "kvship-decode"))
        program = container(named(self.objects, "Deployment", "kvship-decode"))
        mounts = [{"name": name, "mountPath": f"/etc/{name}"} for name in self.secrets()]
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": self.namespace},
            "spec": {"securityContext": pod["securityContext"], "terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "client", "image": program["image"], "command": ["sleep", "infinity"],
                                     "securityContext": program["securityContext"], "volumeMounts": mounts}],
                     "volumes": [{"name": name, "secret": {"secretName": name}} for name in self.secrets()]}}

    def secrets(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.objects
                if each["kind"] == "Secret" and each["metadata"]["name"].startswith("kvship-client")]

    def pods(self, role: str) -> list[str]:
        """The names of those that are not told to go."""
        return [pod["metadata"]["name"] for pod in self.get("pods", f"--selector=app.kubernetes.io/component={role}")
                if "deletionTimestamp" not in pod["metadata"]]

    def value(self, role: str, pod: str, series: str) -> int:
        """Of a metric; 0 if there is none."""
        ask = f"exec 3<>/dev/tcp/127.0.0.1/{ADMIN_PORTS[role]}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        metrics = self.kubectl("exec", pod, "--", "bash", "-c", ask).stdout
        return sum(map(int, re.findall(rf"^{re.escape(series)} (\d+)", metrics, re.MULTILINE)))

    def ask(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs the client in its pod."""
        return self.kubectl("exec", "client", "--", "kvship", *arguments, check=check)


class Load:
    """Requests to the Service, three at a time, none of them retried, while `with` lasts; at its end all have been answered.
    Each client lives for longer than a pod pauses before it is told to end."""

    def __init__(self, pools: Pools):
        self.pools = pools
        self.reports: list[Object] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.ended.is_set():
            done = self.pools.ask("bench", "--server=kvship-decode:50050", "--concurrency=3", "--requests=90", "--json",
                                  "--prompt_tokens=uniform:100:600", "--output_tokens=48", check=False)
            # Where not even the client has run, there is no report.
            self.reports.append(json.loads(done.stdout or "{}") | {"said": done.stderr})

    def __enter__(self) -> None:
        self.thread.start()
        until(lambda: any(self.pools.value("decode", pod, "kvship_decode_sessions") > 0 for pod in self.pools.pods("decode")))

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()
        for report in self.reports:
            assert report.get("succeeded") == 90, report


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    namespace = "kvship-demo-trial"
    pools = Pools(namespace, kustomization(
        tmp_path_factory.mktemp("demo"), [KUSTOMIZE / "overlays" / "demo"], namespace=namespace,
        replicas=[{"name": f"kvship-{role}", "count": 2} for role in ROLES]))
    try:
        pools.start()
        yield pools
        for role in ROLES:
            for pod in pools.get("pods", f"--selector=app.kubernetes.io/component={role}"):
                assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]
    finally:
        pools.stop()


def test_the_documented_request_is_answered(demo):
    [command] = re.findall(r"^ +kubectl -n kvship exec (deploy/kvship-decode -- kvship generate .*)$",
                           (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE)
    script = f'"$0" --context="$1" --namespace="$2" exec {command}'
    told = subprocess.run(["bash", "-c", script, KUBECTL, CONTEXT, demo.namespace], check=False, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() and "KV shipped" in told.stderr


def test_a_rolling_update_of_both_pools_loses_no_request(demo):
    before = {role: set(demo.pods(role)) for role in ROLES}
    with Load(demo):
        for role in ROLES:
            demo.kubectl("rollout", "restart", f"deployment/kvship-{role}")
        demo.wait()
        # Those that were told to go have gone.
        until(lambda: all(len(demo.get("pods", f"--selector=app.kubernetes.io/component={role}")) == 2 for role in ROLES), 300)
    for role in ROLES:
        assert not before[role] & set(demo.pods(role))


def test_prefill_pods_that_come_are_found_and_one_that_is_killed_costs_no_request(demo):
    with Load(demo):
        demo.kubectl("scale", "deployment/kvship-prefill", "--replicas=3")
        demo.wait()
        until(lambda: all(demo.value("prefill", pod, 'kvship_prefill_requests_total{code="OK"}') > 0
                          for pod in demo.pods("prefill")))
        demo.kubectl("delete", "pod", demo.pods("prefill")[0], "--grace-period=0", "--force")
        demo.kubectl("scale", "deployment/kvship-prefill", "--replicas=2")
        demo.wait()


def test_of_two_decode_pods_one_may_be_evicted_at_a_time(demo):
    first, second = demo.pods("decode")

    def evict(pod: str) -> subprocess.CompletedProcess:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": demo.namespace}}
        return demo.kubectl("create", "--filename=-", f"--raw=/api/v1/namespaces/{demo.namespace}/pods/{pod}/eviction",
                            given=json.dumps(eviction), check=False)

    with Load(demo):
        assert evict(first).returncode == 0
        assert "disruption budget" in evict(second).stderr
        demo.wait()


def secret(name: str, namespace: str, files: dict[str, bytes]) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "data": {file: base64.b64encode(content).decode() for file, content in files.items()}}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    namespace = "kvship-mtls-trial"
    folder: Path = tmp_path_factory.mktemp("mtls")
    components = ["model-image", "mtls", "network-policy"]
    demo_overlay = KUSTOMIZE / "overlays" / "demo"
    (folder / "model.flags").write_text((demo_overlay / "model.flags").read_text())
    objects = kustomization(
        folder, [KUSTOMIZE / "base"], namespace=namespace,
        components=[os.path.relpath(KUSTOMIZE / "components" / name, folder) for name in components],
        configMapGenerator=[{"name": "kvship-model", "behavior": "replace", "files": ["model.flags"]}],
        replicas=[{"name": f"kvship-{role}", "count": 1} for role in ROLES],
        patches=[{"target": {"kind": "Deployment"}, "patch": json.dumps([
            {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests",
             "value": {"cpu": "250m", "memory": "512Mi"}}])}])
    make_authority(folder)
    secrets = [secret("kvship-api-tokens", namespace, {
        "tokens": f"tests:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n".encode()}),
        secret("kvship-client-token", namespace, {"token": TOKEN.encode()})]
    for role, certificate in wanted(objects):
        make_certificate(folder, role, certificate["dnsNames"])
        secrets.append(secret(certificate["secretName"], namespace, {
            name: (folder / f"{role}-{name}").read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}))
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    own = [each for each in objects if each["kind"] not in ("Certificate", "Issuer")]
    pools = Pools(namespace, [space, *secrets, *own])
    try:
        pools.start()
        yield pools
    finally:
        pools.stop()


def test_pools_with_certificates_answer_who_has_one_and_a_token(secured):
    tls = [f"--tls_{flag}=/etc/kvship-client-tls/{file}" for flag, file in
           (("cert", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))]
    request = ["generate", "--server=kvship-decode:50050", "--prompt=Hi", "--max_tokens=4", "--timeout=20s"]
    answer = secured.ask(*request, *tls, "--api_token_file=/etc/kvship-client-token/token", "--json").stdout
    assert json.loads(answer)["usage"]["output_tokens"] > 0
    assert "token" in secured.ask(*request, *tls, check=False).stderr
    assert secured.ask(*request, check=False).returncode != 0
