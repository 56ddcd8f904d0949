"""The published schemas of what Kubernetes, KEDA and the Prometheus operator know.

To import them takes as long as to import all tests.
"""

from typing import Any, TypeAlias

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

Manifest: TypeAlias = dict[str, Any]

KUBERNETES = ("1.31", "1.37")
"""The oldest version with all that the manifests use as stable, and the newest of the package."""

CUSTOM = {
    model.__name__: model
    for model in (PrometheusRule, ScaledObject, ServiceMonitor, TriggerAuthentication)
}
"""Kinds that KEDA and the Prometheus operator add, generated from their published schemas."""


def problem(manifest: Manifest) -> str:
    """Say what is wrong with a manifest, unknown fields included; empty if it fits its schema."""
    model = CUSTOM.get(manifest["kind"])
    try:
        if model is None:
            for version in KUBERNETES:
                kubernetes_validate.validate(manifest, version, strict=True)
            return ""
        # The models ignore what they do not know, and make numbers of texts.
        fits = model.model_validate(manifest).model_dump(
            by_alias=True, exclude_unset=True, mode="json"
        )
    except (kubernetes_validate.ValidationError, ValueError) as exc:
        return str(exc)
    return "" if fits == manifest else f"of {manifest} only {fits} is known"
