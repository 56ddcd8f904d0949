"""``services`` of a settings class: what is accepted, and what is refused with its correction."""

import asyncio

import pytest
from workerbase import BaseArqWorkerSettings, WorkerConfig
from workerbase.errors import SettingsError
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.monitor import Monitor
from workerbase.process.arq_service import ArqJobs
from workerbase.process.runner import services_of
from workerbase.process.service import Service, WorkerContext
from workerbase.process.settings import resolved_settings
from workerbase.streams import Event, EventContext, EventRouter, Streams, StreamsConfig
from workerconfig import Config


class Clock(Service):
    """The smallest service."""

    name = "clock"


class Listed(Monitor):
    """A monitor."""


def settings_with(services: object, **members: object) -> type[BaseArqWorkerSettings]:
    return type("Settings", (BaseArqWorkerSettings,), {"services": services, **members})


def names_of(settings: type) -> list[str]:
    return [service.name for service in services_of(resolved_settings(settings))]


def test_without_services_arqs_own_worker_runs_the_jobs() -> None:
    class Settings(BaseArqWorkerSettings):
        pass

    (service,) = services_of(resolved_settings(Settings))
    assert isinstance(service, ArqJobs)


@pytest.mark.parametrize("collection", [list, tuple])
def test_services_are_a_list_or_a_tuple(collection: type) -> None:
    config = Config.load()
    streams = Streams(EventRouter())
    assert names_of(settings_with(collection([Clock()]))) == ["jobs", "clock"]
    both = settings_with(collection([streams, LeasedJobs()]), config=config)
    assert names_of(both) == ["streams", "jobs"]
    assert not any(isinstance(s, ArqJobs) for s in services_of(resolved_settings(both)))


def test_each_run_works_on_a_copy() -> None:
    clock = Clock()
    resolved = resolved_settings(settings_with((clock,)))
    assert resolved.services == (clock,)
    copies = [services_of(resolved)[-1] for _ in range(2)]
    assert clock not in copies
    assert copies[0] is not copies[1]


def test_services_are_inherited_and_replaced() -> None:
    parent = settings_with((Clock(),))
    child = type("Child", (parent,), {})
    other = type("Other", (parent,), {"services": ()})
    assert names_of(child) == ["jobs", "clock"]
    assert names_of(other) == ["jobs"]


# --- refused


@pytest.mark.parametrize("value", [LeasedJobs, Clock, "streams", None, 3, Listed(), object()])
def test_what_is_not_a_service_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"services: .* is not a service; is it missing \(\)\?"):
        settings_with((value,))


@pytest.mark.parametrize("value", [Clock(), LeasedJobs(), {"clock": Clock()}, None, 3])
def test_a_missing_comma_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"must be a list or a tuple; is a comma missing"):
        settings_with(value)


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="two services are named 'clock'"):
        settings_with((Clock(), Clock()))
    with pytest.raises(SettingsError, match="two services are named 'streams'"):
        settings_with((Streams(EventRouter()), Streams(EventRouter())))


def test_two_services_that_handle_jobs_are_refused() -> None:
    class OtherJobs(Service):
        name = "other jobs"
        handles_jobs = True

    with pytest.raises(SettingsError, match="more than one service runs the jobs of the queue"):
        settings_with((LeasedJobs(), OtherJobs()))
    assert names_of(settings_with((OtherJobs(),))) == ["other jobs"]


@pytest.mark.parametrize(
    ("service", "needed"),
    [(Streams(EventRouter()), "StreamsConfig"), (LeasedJobs(), "LeasedJobsConfig")],
    ids=["streams", "leased jobs"],
)
def test_a_configuration_without_the_settings_of_a_service_is_refused(
    service: Service, needed: str
) -> None:
    class Mine(WorkerConfig):
        """Without the settings of any feature."""

    expected = rf"config is a Mine, and the service .* needs settings of {needed}: write class Mine"
    with pytest.raises(SettingsError, match=expected) as caught:
        settings_with((service,), config=Mine())
    assert needed in str(caught.value).partition("write class")[2]


def test_a_configuration_with_the_settings_of_one_service_lacks_those_of_the_other() -> None:
    class Mine(StreamsConfig, WorkerConfig):
        """With the settings of streams."""

    streams = Streams(EventRouter())
    assert names_of(settings_with((streams,), config=Mine())) == ["jobs", "streams"]
    with pytest.raises(SettingsError, match="needs settings of LeasedJobsConfig"):
        settings_with((streams, LeasedJobs()), config=Mine())


def test_without_a_configuration_the_settings_of_all_services_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_LEASE_TIMEOUT", "7")
    monkeypatch.setenv("WORKER_CONCURRENCY", "3")
    config = resolved_settings(settings_with((Streams(EventRouter()), LeasedJobs()))).config
    assert isinstance(config, StreamsConfig)
    assert isinstance(config, LeasedJobsConfig)
    assert (config.lease_timeout, config.concurrency) == (7, 3)


# --- what a service may leave out


async def test_everything_but_its_name_has_a_default() -> None:
    clock, config = Clock(), WorkerConfig()
    assert isinstance(clock, Service)
    assert (clock.handles_jobs, clock.config_type) == (False, WorkerConfig)
    assert (clock.monitors(config), clock.sources(config)) == ((), ())
    assert clock.setup_process(config) is False
    worker = WorkerContext(settings=resolved_settings(settings_with(())))
    await clock.startup(worker)
    assert await clock.run_pending() == 0
    assert clock.vitals().name == "clock"
    stop = asyncio.Event()
    serving = asyncio.create_task(clock.serve(stop, 1.0))
    await asyncio.sleep(0)
    assert not serving.done()
    stop.set()
    await serving


def test_monitors_of_class_and_services_are_put_together() -> None:
    class Observed(Clock):
        def monitors(self, config: WorkerConfig) -> tuple[Monitor, ...]:
            return (Listed(),)

    own = Listed()
    monitors = resolved_settings(settings_with((Observed(),), monitors=(own,))).all_monitors
    assert monitors[0] is own
    assert len(monitors) == 2


def test_sources_are_those_of_the_services_and_the_queue() -> None:
    async def send(ctx: object) -> None: ...

    resolved = resolved_settings(settings_with((Streams(EventRouter()),), functions=(send,)))
    (queue,) = resolved.sources()
    assert (queue.name, queue.kind) == ("arq:queue", "queue")
    assert queue.names[-1].endswith("send")
    assert queue.knows(queue.names[-1])
    assert not queue.knows("unheard of")


def test_a_stream_named_like_the_queue_is_refused_and_both_are_named() -> None:
    router = EventRouter()

    class Paid(Event, type="mail.paid", stream="mail"): ...

    @router.on(Paid)
    async def on_paid(event: Paid, ctx: EventContext) -> None: ...

    config = Config(queue_name="mail")
    with pytest.raises(SettingsError, match="stream and the queue are both named 'mail'"):
        settings_with((Streams(router),), config=config)
