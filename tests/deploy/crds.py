"""Of kinds that Kubernetes has only with an operator: the fields that are, as JSON schemas. A field that is
misspelt would be pruned by the API server without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string", "minLength": 1}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
NUMERAL: Final[Schema] = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
DURATION: Final[Schema] = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}


def _of(required: Mapping[str, Schema], **more: Schema) -> Schema:
    """An object with these fields and perhaps some more, no others."""
    return {
        "type": "object",
        "properties": {**required, **more},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _kind(api: str, kind: str, spec: Schema) -> Schema:
    metadata = _of({"name": TEXT}, labels=TEXTS, annotations=TEXTS, namespace=TEXT)
    head: dict[str, Schema] = {"apiVersion": {"const": api}, "kind": {"const": kind}}
    return _of({**head, "metadata": metadata, "spec": spec})


_policy = _of({"type": {"enum": ["Pods", "Percent"]}, "value": COUNT, "periodSeconds": COUNT})
_scaling = _of(
    {"policies": _list(_policy)},
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
)
_trigger = _of(
    {
        "type": {"const": "prometheus"},
        "metadata": _of(
            {"serverAddress": TEXT, "query": TEXT, "threshold": NUMERAL},
            activationThreshold=NUMERAL,
            ignoreNullValues={"enum": ["true", "false"]},
            unsafeSsl={"enum": ["true", "false"]},
            authModes=TEXT,
            customHeaders=TEXT,
            timeout=NUMERAL,
        ),
    },
    name=TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=_of({"name": TEXT}, kind=TEXT),
)
_autoscaler = _of({}, name=TEXT, behavior=_of({}, scaleUp=_scaling, scaleDown=_scaling))
_scaled = _of(
    {
        "scaleTargetRef": _of({"name": TEXT}, apiVersion=TEXT, kind=TEXT),
        "triggers": _list(_trigger),
    },
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    initialCooldownPeriod=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    idleReplicaCount=COUNT,
    fallback=_of({"failureThreshold": COUNT, "replicas": COUNT}),
    advanced=_of(
        {},
        restoreToOriginalReplicaCount={"type": "boolean"},
        horizontalPodAutoscalerConfig=_autoscaler,
    ),
)
_endpoint = _of(
    {"port": TEXT, "path": TEXT},
    interval=DURATION,
    scrapeTimeout=DURATION,
    scheme={"enum": ["http", "https"]},
    authorization={"type": "object"},
    honorLabels={"type": "boolean"},
)
_monitor = _of(
    {"selector": _of({"matchLabels": TEXTS}), "podMetricsEndpoints": _list(_endpoint)},
    jobLabel=TEXT,
    namespaceSelector={"type": "object"},
)
_rule = _of({"alert": TEXT, "expr": TEXT}, labels=TEXTS, annotations=TEXTS, **{"for": DURATION})
_rules = _of({"groups": _list(_of({"name": TEXT, "rules": _list(_rule)}, interval=DURATION))})

SCHEMAS: Final[Mapping[str, Schema]] = {
    "ScaledObject": _kind("keda.sh/v1alpha1", "ScaledObject", _scaled),
    "PodMonitor": _kind("monitoring.coreos.com/v1", "PodMonitor", _monitor),
    "PrometheusRule": _kind("monitoring.coreos.com/v1", "PrometheusRule", _rules),
}
"""By kind. What we do not use is left out: add what you need from the operator's documentation."""
