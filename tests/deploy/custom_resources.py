"""JSON schemas for the custom resources in deploy/kustomize: the fields that it uses, by their documentations.

They are stricter than the operators' own (which are not at hand offline): a field that is not here is an error.
"""

from typing import Any

import jsonschema

TEXT = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": r"^\d+[hms]$"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}


def exactly(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "additionalProperties": False, "required": list(required),
            "properties": required | (optional or {})}


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


USAGES = {"enum": ["digital signature", "key encipherment", "server auth", "client auth"]}
KEY = exactly({"algorithm": {"const": "ECDSA"}, "size": {"enum": [256, 384, 521]},
               "rotationPolicy": {"enum": ["Always", "Never"]}})
CERTIFICATE = exactly(
    {"secretName": NAME, "duration": DURATION, "privateKey": KEY,
     "issuerRef": exactly({"kind": {"enum": ["Issuer", "ClusterIssuer"]}, "name": NAME})},
    {"isCA": {"type": "boolean"}, "commonName": TEXT, "renewBefore": DURATION, "dnsNames": list_of(TEXT),
     "usages": list_of(USAGES)})
ISSUER = {"oneOf": [exactly({"selfSigned": {"const": {}}}), exactly({"ca": exactly({"secretName": NAME})})]}

SCALE_DOWN_POLICY = exactly({"type": {"enum": ["Pods", "Percent"]}, "value": {"type": "integer", "minimum": 1},
                             "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800}})
SCALE_DOWN = exactly({"stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
                      "policies": list_of(SCALE_DOWN_POLICY)})
PROMETHEUS_TRIGGER = exactly(
    {"type": {"const": "prometheus"},
     "metadata": exactly({"serverAddress": {"type": "string", "pattern": r"^http://.*:\d+$"}, "query": TEXT,
                          "threshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"}})})
COUNT = {"type": "integer", "minimum": 1}
SCALED_OBJECT = exactly(
    {"scaleTargetRef": exactly({"name": NAME}), "minReplicaCount": COUNT, "maxReplicaCount": COUNT,
     "pollingInterval": COUNT, "triggers": list_of(PROMETHEUS_TRIGGER),
     "advanced": exactly({"horizontalPodAutoscalerConfig": exactly({"behavior": exactly({"scaleDown": SCALE_DOWN})})})})

POD_MONITOR = exactly(
    {"selector": exactly({"matchLabels": {"type": "object"}}),
     "podMetricsEndpoints": list_of(exactly({"port": NAME, "path": TEXT, "interval": DURATION}))})
RULE = {"type": "object", "additionalProperties": False, "required": ["expr"],
        "properties": {"record": TEXT, "alert": TEXT, "expr": TEXT, "for": DURATION, "keep_firing_for": DURATION,
                       "labels": {"type": "object"}, "annotations": {"type": "object"}},
        "oneOf": [{"required": ["record"]}, {"required": ["alert"]}]}
PROMETHEUS_RULE = exactly({"groups": list_of(exactly({"name": TEXT, "rules": list_of(RULE)}, {"interval": DURATION}))})

SPECS = {("cert-manager.io/v1", "Certificate"): CERTIFICATE, ("cert-manager.io/v1", "Issuer"): ISSUER,
         ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
         ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
         ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE}


def is_custom(object_: dict[str, Any]) -> bool:
    return (object_["apiVersion"], object_["kind"]) in SPECS


def check(object_: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError."""
    schema = exactly({"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"},
                      "spec": SPECS[object_["apiVersion"], object_["kind"]]})
    jsonschema.validate(object_, schema)
