"""The current span is found without importing OpenTelemetry."""

import json
import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest
from workerbase.broker import codec, trace_context


@pytest.fixture
def span(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What an application with OpenTelemetry has as its current span."""
    context = SimpleNamespace(is_valid=True, trace_id=0xAB, span_id=0xCD, trace_flags=1)
    module = ModuleType("opentelemetry.trace")
    module.get_current_span = lambda: SimpleNamespace(get_span_context=lambda: context)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    return context


def test_the_current_span_is_written_as_a_traceparent(span: SimpleNamespace) -> None:
    assert trace_context.traceparent() == f"00-{'ab':0>32}-{'cd':0>16}-01"


def test_a_span_that_is_not_valid_is_none(span: SimpleNamespace) -> None:
    span.is_valid = False
    assert trace_context.traceparent() == ""


def test_without_opentelemetry_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert trace_context.traceparent() == ""
    assert trace_context.with_trace(codec.dumps) is codec.dumps
    assert trace_context.with_trace(None) is None


def test_a_module_that_is_still_being_imported_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    assert trace_context.traceparent() == ""


def test_any_serializer_writes_it_beside_the_job(span: SimpleNamespace) -> None:
    written = trace_context.with_trace(codec.dumps)
    assert written is not None
    assert json.loads(written({"f": "x"})) == {"f": "x", "tp": trace_context.traceparent()}
    pickled = trace_context.with_trace(None)
    assert pickled is not None
    assert pickle.loads(pickled({"f": "x"}))["tp"] == trace_context.traceparent()
