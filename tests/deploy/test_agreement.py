"""What the objects say of the programs, and of each other, is so: flags, ports, probes, names, times and sizes."""

import json
import os
import re
import subprocess

import manifests
import pytest
from manifests import OVERLAYS, container, flag_files, flags, named, overlay, pod_spec, seconds

ROLES = ["prefill", "decode"]
# Beside the overlays, what neither has: the other scaler, RDMA, a model in an image with GPUs; plain text with a volume.
SETS = [*OVERLAYS, "mtls+model-image+autoscaling-hpa+cuda+nccl+monitoring+network-policy",
        "plaintext+model-pvc+autoscaling+network-policy"]
ON_GPUS = [name for name in SETS if name == "h200" or "cuda" in name]
# What a program needs beside the memory that is bounded: activations, its code.
PROGRAM_BYTES = 256 << 20
# What gRPC may hold of messages (service/rpc_server.cc), and the flags' defaults for HTTP.
GRPC_BYTES = 1 << 30
MAX_HTTP_REQUESTS, MAX_MESSAGE_BYTES = 256, 16 << 20
# Of kvship-prefill: what runs that have begun may have in their outboxes beyond max_unsent_bytes.
MAX_ACTIVE_REQUESTS, MAX_OUTBOX_BYTES = 16, 32 << 20
WAITING_BYTES = 128 << 20  # kMostPreparerBytes in decode_service/decode_server.cc
JSON_PER_BODY = 22  # decode_service/http/parse_turns.h

each_pool = pytest.mark.parametrize(("name", "role"), [(name, role) for name in SETS for role in ROLES])


def program(role: str) -> str:
    return os.path.join(os.environ["KVSHIP_BIN"], f"kvship-{role}")


def known_flags(role: str) -> set[str]:
    told = subprocess.run([program(role), "--helpfull"], check=False, capture_output=True, text=True).stdout
    return set(re.findall(r"^ +--(\w+) \(", told, re.MULTILINE))


def message_bytes(role: str, given: dict[str, str]) -> int:
    """Of requests that may be there at a time."""
    longest = int(given.get("max_message_bytes", MAX_MESSAGE_BYTES))
    over_http = int(given.get("max_http_requests", MAX_HTTP_REQUESTS)) + JSON_PER_BODY
    return max(GRPC_BYTES, 4 * longest) + (over_http * longest + WAITING_BYTES if role == "decode" else 0)


def deployment(name: str, role: str):
    return named(overlay(name), "Deployment", f"kvship-{role}")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@each_pool
def test_the_program_knows_each_flag_and_its_value(name, role, tmp_path):
    assert flags(overlay(name), role).keys() <= known_flags(role)
    paths = []
    for path, text in flag_files(overlay(name), role).items():
        paths.append(tmp_path / os.path.basename(path))
        paths[-1].write_text(text)
    assert container(deployment(name, role))["command"] == [f"kvship-{role}"]
    arguments = [f"--flagfile={','.join(map(str, paths))}", "--help"]
    told = subprocess.run([program(role), *arguments], check=False, capture_output=True, text=True)
    assert "ERROR" not in told.stderr, told.stderr


def test_a_value_that_is_none_would_be_seen():
    arguments = ["--drain_timeout=soon", "--help"]
    told = subprocess.run([program("decode"), *arguments], check=False, capture_output=True, text=True)
    assert "ERROR" in told.stderr


@each_pool
def test_ports_are_those_the_program_listens_on(name, role):
    given = flags(overlay(name), role)
    wanted = {"grpc": port_of(given["listen"]), "admin": port_of(given["admin"])}
    if role == "decode":
        wanted["http"] = port_of(given["http"])
    ports = container(deployment(name, role))["ports"]
    assert {each["name"]: each["containerPort"] for each in ports} == wanted
    service = named(overlay(name), "Service", f"kvship-{role}")
    served = {each["targetPort"]: each["port"] for each in service["spec"]["ports"]}
    assert served == {port: number for port, number in wanted.items() if port != "admin"}


@each_pool
def test_selectors_choose_the_pods_of_the_pool_alone(name, role):
    labels = deployment(name, role)["spec"]["template"]["metadata"]["labels"]
    other = deployment(name, ROLES[1 - ROLES.index(role)])["spec"]["template"]["metadata"]["labels"]
    spread = pod_spec(deployment(name, role))["topologySpreadConstraints"]
    selectors = [deployment(name, role)["spec"]["selector"]["matchLabels"],
                 named(overlay(name), "Service", f"kvship-{role}")["spec"]["selector"],
                 named(overlay(name), "PodDisruptionBudget", f"kvship-{role}")["spec"]["selector"]["matchLabels"],
                 named(overlay(name), "NetworkPolicy", f"kvship-{role}")["spec"]["podSelector"]["matchLabels"],
                 *(each["labelSelector"]["matchLabels"] for each in spread)]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= other.items()


@each_pool
def test_policies_open_the_ports_of_the_pods(name, role):
    def numbers(rules):
        return {port["port"] for rule in rules for port in rule["ports"]}
    ports = {each["containerPort"] for each in container(deployment(name, role))["ports"]}
    policy = named(overlay(name), "NetworkPolicy", f"kvship-{role}")["spec"]
    assert numbers(policy["ingress"]) == ports
    [prefill_port] = [each["port"] for each in named(overlay(name), "Service", "kvship-prefill")["spec"]["ports"]]
    assert numbers(policy["egress"]) == ({prefill_port, 53} if role == "decode" else set())


def test_only_decode_pods_reach_prefill_pods():
    [serving] = [rule for rule in named(overlay("h200"), "NetworkPolicy", "kvship-prefill")["spec"]["ingress"]
                 if rule["ports"] == [{"port": 50051}]]
    [peer] = serving["from"]
    labels = deployment("h200", "decode")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items() and set(peer) == {"podSelector"}
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "decode"


def test_metrics_are_scraped_from_the_pods_of_both_pools():
    monitor = named(overlay("h200"), "PodMonitor", "kvship")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    for role in ROLES:
        labels = deployment("h200", role)["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {each["name"] for each in container(deployment("h200", role))["ports"]}


@pytest.mark.parametrize("name", SETS)
def test_decode_asks_the_prefill_service(name):
    service = named(overlay(name), "Service", "kvship-prefill")
    assert service["spec"]["clusterIP"] == "None"
    [port] = service["spec"]["ports"]
    assert flags(overlay(name), "decode")["prefill"] == f"dns:///{service['metadata']['name']}:{port['port']}"


@pytest.mark.parametrize("name", SETS)
def test_both_pools_run_the_model_that_is_mounted(name):
    models = {flags(overlay(name), role)["model"] for role in ROLES}
    assert len(models) == 1
    for role in ROLES:
        mounts = [each["mountPath"] for each in container(deployment(name, role))["volumeMounts"]]
        assert os.path.dirname(*models) in mounts


@each_pool
def test_pods_are_given_longer_than_they_drain(name, role):
    given = flags(overlay(name), role)
    drain = seconds(given["drain_timeout"])
    before = container(deployment(name, role))["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_spec(deployment(name, role))["terminationGracePeriodSeconds"] >= before + drain + 10


@each_pool
def test_a_rollout_is_given_longer_than_a_pod_takes_to_go_and_another_to_start(name, role):
    startup = container(deployment(name, role))["startupProbe"]
    starting = startup["periodSeconds"] * startup["failureThreshold"]
    going = pod_spec(deployment(name, role))["terminationGracePeriodSeconds"]
    # Kubernetes' default, 600 s, would call a rollout failed that only waits.
    assert deployment(name, role)["spec"].get("progressDeadlineSeconds", 600) > going + starting


@each_pool
def test_no_request_may_take_longer_than_a_pod_drains(name, role):
    given = flags(overlay(name), role)
    drain = seconds(given["drain_timeout"])
    asked = flags(overlay(name), "decode")
    assert drain >= max(seconds(asked["default_deadline"]), seconds(asked["http_deadline"]))


@each_pool
def test_threads_and_memory_are_within_the_limits(name, role):
    given, limits = flags(overlay(name), role), container(deployment(name, role))["resources"]["limits"]
    assert given["threads"] == limits["cpu"]
    bounded = int(given["max_active_bytes" if role == "prefill" else "pool_bytes"])
    on_host = int(given.get("prefix_cache_bytes", 0))
    if role == "prefill":
        on_host += int(given["max_unsent_bytes"])
        on_host += int(given.get("max_active_requests", MAX_ACTIVE_REQUESTS)) * int(given.get("max_outbox_bytes", MAX_OUTBOX_BYTES))
    if given.get("device") == "cuda":
        told = subprocess.run([os.path.join(os.environ["KVSHIP_BIN"], "kvship"), "plan", "--json", "--gpu=h200",
                               "--model=llama-3.1-8b"], check=True, capture_output=True, text=True).stdout
        planned = json.loads(told)
        # As kvship plan leaves it to CUDA and activations.
        assert bounded + planned["model"]["weight_bytes"] <= 0.9 * planned["gpu"]["memory_bytes"]
    else:
        on_host += bounded
    assert on_host + message_bytes(role, given) + PROGRAM_BYTES <= manifests.num_bytes(limits["memory"])


@pytest.mark.parametrize(("name", "role"), [(name, role) for name in ON_GPUS for role in ROLES])
def test_a_pod_gets_the_gpu_that_its_program_computes_on(name, role):
    pod, program = pod_spec(deployment(name, role)), container(deployment(name, role))
    assert flags(overlay(name), role)["device"] == "cuda"
    assert program["image"].endswith("-cuda")
    assert program["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    [shared] = [each["name"] for each in program["volumeMounts"] if each["mountPath"] == "/dev/shm"]
    [volume] = [each["emptyDir"] for each in pod["volumes"] if each["name"] == shared]
    assert volume["medium"] == "Memory" and manifests.num_bytes(volume["sizeLimit"]) >= 1 << 30
    # The other GPUs may be taken: a new pod waits for the old one's.
    assert deployment(name, role)["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@each_pool
def test_only_with_nccl_a_pod_has_rdma(name, role):
    program = container(deployment(name, role))
    limits, env = program["resources"]["limits"], {each["name"]: each["value"] for each in program.get("env", [])}
    if "nccl" not in name:
        assert "transport" not in flags(overlay(name), role)
        assert not [key for key in limits if key.startswith("rdma/")]
        assert not [key for key in env if key.startswith("NCCL_")]
        return
    assert flags(overlay(name), role)["transport"] == "nccl"
    assert limits["rdma/hca"] == "1"
    assert env["NCCL_IB_HCA"] and env["NCCL_SOCKET_IFNAME"] and env["NCCL_RAS_ENABLE"] == "0"


@pytest.mark.parametrize("name", [name for name in SETS if name == "h200" or "autoscaling" in name])
def test_scalers_scale_the_deployments_and_nobody_else_does(name):
    scalers = [each for each in overlay(name) if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    deployments = {each["metadata"]["name"]: each for each in overlay(name) if each["kind"] == "Deployment"}
    assert sorted(each["spec"]["scaleTargetRef"]["name"] for each in scalers) == sorted(deployments)
    for each in scalers:
        assert each["spec"]["scaleTargetRef"].get("kind", "Deployment") == "Deployment"
        assert each["metadata"]["namespace"] == "kvship"
    assert not [each for each in deployments.values() if "replicas" in each["spec"]]


def test_peers_that_may_call_have_a_certificate_of_that_name():
    objects = overlay("h200")
    certificates = [each for each in objects if each["kind"] == "Certificate"]
    names = {each["metadata"]["name"]: each["spec"].get("dnsNames", []) for each in certificates}
    assert flags(objects, "prefill")["allowed_peers"] in names["kvship-decode"]
    assert flags(objects, "decode")["allowed_peers"] in names["kvship-client"]
    # Decode nodes hold the certificate of a prefill node against the host that they were given.
    assert re.fullmatch(r"dns:///(.*):\d+", flags(objects, "decode")["prefill"])[1] in names["kvship-prefill"]


def test_files_of_certificates_are_where_the_flags_look():
    objects = overlay("h200")
    for role in ROLES:
        mounts = {each["mountPath"] for each in container(deployment("h200", role))["volumeMounts"]}
        files = [value for flag, value in flags(objects, role).items()
                 if flag.startswith("tls_") or flag in ("prefill_tls_ca", "api_tokens_file")]
        assert len(files) == (3 if role == "prefill" else 5)
        # The keys of a Secret that cert-manager writes, and the one of the tokens.
        assert {os.path.basename(path) for path in files} <= {"tls.crt", "tls.key", "ca.crt", "tokens"}
        assert {os.path.dirname(path) for path in files} <= mounts


def test_scalers_ask_for_metrics_that_the_programs_have(metrics):
    texts = [(manifests.KUSTOMIZE / "components" / path).read_text() for path in (
        "autoscaling/scaled-objects.yaml", "autoscaling-hpa/prometheus-adapter.yaml")]
    asked = {name for text in texts for name in re.findall(r"kvship_(?:prefill|decode)_\w+", text)}
    served_by_the_adapter = {"kvship_decode_rejections_per_second"}
    assert asked - served_by_the_adapter <= metrics
    autoscalers = (manifests.KUSTOMIZE / "components/autoscaling-hpa/autoscalers.yaml").read_text()
    assert set(re.findall(r"kvship_\w+", autoscalers)) == served_by_the_adapter | {
        "kvship_decode_pool_fill_ratio", "kvship_prefill_unread_tokens"}
