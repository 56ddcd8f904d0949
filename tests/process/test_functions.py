"""CORE_FUNCTIONS and the functions of a project, however they are put together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from arq.worker import Function, func
from workerbase import CORE_FUNCTIONS, BaseArqWorkerSettings, requeue_to_stream, task
from workerbase.errors import SettingsError
from workerbase.process.job_run import JobRun
from workerbase.process.requeue import MAX_REQUEUE_ATTEMPTS
from workerbase.process.settings import resolved_settings
from workerbase.process.task import Task
from workerbase.types import Ctx

REQUEUE = "requeue_to_stream"


async def hello(ctx: Ctx, name: str = "you") -> str:
    return f"hello {name}"


async def goodbye(ctx: Ctx) -> None: ...


@task(max_retries=9, timeout=4)
async def careful(ctx: Ctx) -> None: ...


def functions_of(settings: type) -> dict[str, Function]:
    """Return the functions that the runtime is given; arq is given the same, wrapped."""
    resolved = {function.name: function for function in resolved_settings(settings).functions}
    for_arq = {f.name: JobRun.declared_of(f) for f in vars(settings)["functions"]}
    assert for_arq == resolved
    return resolved


def settings_with(functions: object) -> type[BaseArqWorkerSettings]:
    return type("Settings", (BaseArqWorkerSettings,), {"functions": functions})


MIXTURES: dict[str, Any] = {
    "core + [task]": lambda: CORE_FUNCTIONS + [careful],  # noqa: RUF005
    "core + (task,)": lambda: CORE_FUNCTIONS + (careful,),  # noqa: RUF005
    "[task] + core": lambda: [careful] + CORE_FUNCTIONS,  # noqa: RUF005
    "(task,) + core": lambda: (careful,) + CORE_FUNCTIONS,  # noqa: RUF005
    "core + core + [task]": lambda: CORE_FUNCTIONS + CORE_FUNCTIONS + [careful],
    "(task,) + core + []": lambda: (careful,) + CORE_FUNCTIONS + [],
    "[*core, task]": lambda: [*CORE_FUNCTIONS, careful],
    "(task, *core)": lambda: (careful, *CORE_FUNCTIONS),
    "[task]": lambda: [careful],
    "(task,)": lambda: (careful,),
}


@pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)
def test_core_functions_are_there_once_however_they_are_given(make: Any) -> None:
    functions = functions_of(settings_with(make()))
    assert sorted(functions) == ["careful", REQUEUE]
    assert Task.from_function(functions["careful"]) is careful
    assert functions[REQUEUE].max_tries == MAX_REQUEUE_ATTEMPTS


@pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)
def test_no_mixture_changes_core_functions(make: Any) -> None:
    make()
    assert [function.name for function in CORE_FUNCTIONS] == [REQUEUE]  # type: ignore[union-attr]


def test_functions_can_be_added_in_place_to_a_list_of_ones_own() -> None:
    functions = CORE_FUNCTIONS + [hello]  # noqa: RUF005
    functions += (goodbye,)
    assert sorted(functions_of(settings_with(functions))) == ["goodbye", "hello", REQUEUE]
    assert len(CORE_FUNCTIONS) == 1


class Parent(BaseArqWorkerSettings):
    functions = CORE_FUNCTIONS + [hello, careful]  # noqa: RUF005


INHERITED: dict[str, Any] = {
    "Parent.functions + [b]": lambda: Parent.functions + [goodbye],  # noqa: RUF005
    "Parent.functions + (b,)": lambda: Parent.functions + (goodbye,),  # noqa: RUF005
    "[b] + Parent.functions": lambda: [goodbye] + Parent.functions,  # noqa: RUF005
    "(b,) + Parent.functions": lambda: (goodbye,) + Parent.functions,  # noqa: RUF005
    "[*Parent.functions, b]": lambda: [*Parent.functions, goodbye],
    "(*Parent.functions, b)": lambda: (*Parent.functions, goodbye),
    "core + Parent.functions + [b]": lambda: CORE_FUNCTIONS + Parent.functions + [goodbye],
}


@pytest.mark.parametrize("make", INHERITED.values(), ids=INHERITED)
def test_a_subclass_adds_to_the_functions_of_its_parent(make: Any) -> None:
    functions = functions_of(settings_with(make()))
    assert sorted(functions) == ["careful", "goodbye", "hello", REQUEUE]
    assert functions["careful"] == functions_of(Parent)["careful"]


def test_what_a_subclass_changes_of_its_parents_functions_stays_changed() -> None:
    hello_quickly = next(f for f in Parent.functions if getattr(f, "name", "") == "hello")
    assert isinstance(hello_quickly, Function)
    changed = replace(hello_quickly, name="quick", timeout_s=7.0)

    functions = functions_of(settings_with([changed, *Parent.functions]))

    assert functions["quick"].timeout_s == 7.0
    assert functions["hello"].timeout_s is None
    assert functions["careful"].timeout_s == 4


def test_a_subclass_adds_to_the_cron_jobs_of_its_parent() -> None:
    class Nightly(BaseArqWorkerSettings):
        cron_jobs = (careful.cron(hour=3),)

    class Both(Nightly):
        cron_jobs = Nightly.cron_jobs + (careful.cron(name="noon", hour=12),)  # noqa: RUF005

    jobs = resolved_settings(Both).cron_jobs
    assert [(job.name, job.timeout_s) for job in jobs] == [("cron:careful", 4), ("noon", 4)]
    assert all(Task.from_function(job) is careful for job in jobs)


def test_a_subclass_without_functions_has_those_of_its_parent() -> None:
    child = type("Child", (Parent,), {})
    assert (
        functions_of(child).keys() == functions_of(Parent).keys() == {"careful", "hello", REQUEUE}
    )


@pytest.mark.parametrize(
    "again",
    [
        [requeue_to_stream],
        (requeue_to_stream, hello),
        CORE_FUNCTIONS + [requeue_to_stream],  # noqa: RUF005
        [requeue_to_stream, *CORE_FUNCTIONS],
    ],
)
def test_requeue_to_stream_may_be_named_again_and_keeps_its_limits(again: Sequence[Any]) -> None:
    function = functions_of(settings_with(again))[REQUEUE]
    assert function.max_tries == MAX_REQUEUE_ATTEMPTS
    assert function.keep_result_s == 0


def test_a_function_may_be_named_twice() -> None:
    twice = settings_with([hello, *Parent.functions, hello])
    assert sorted(functions_of(twice)) == ["careful", "hello", REQUEUE]


def test_two_tasks_of_one_name_are_refused_the_core_ones_among_them() -> None:
    for other in (func(goodbye, name="other"), func(goodbye, name=REQUEUE)):
        with pytest.raises(SettingsError, match="two tasks are named"):
            settings_with((func(hello, name="other"), other))

    @task()
    async def requeue_to_stream(ctx: Ctx) -> None: ...

    requeue_to_stream.name = REQUEUE
    with pytest.raises(SettingsError, match=f"two tasks are named '{REQUEUE}'"):
        settings_with([requeue_to_stream])


def test_requeueing_never_runs_out_of_attempts_and_leaves_no_result() -> None:
    class Settings(BaseArqWorkerSettings):
        max_retries = 1

    function = functions_of(Settings)[REQUEUE]
    assert function.max_tries is not None
    assert function.max_tries > 10_000
    assert function.keep_result_s == 0


def test_the_options_of_the_task_decorator_reach_arq() -> None:
    settings = settings_with((careful,))
    function = functions_of(settings)["careful"]
    assert function.max_tries == 9
    assert function.timeout_s == 4
    assert resolved_settings(settings).longest_job_timeout == 60


def test_the_longest_job_timeout_may_be_that_of_a_cron_job() -> None:
    @task(timeout=3600)
    async def nightly(ctx: Ctx) -> None: ...

    class Settings(BaseArqWorkerSettings):
        cron_jobs = (nightly.cron(hour=3),)

    assert resolved_settings(Settings).longest_job_timeout == 3600


@pytest.mark.parametrize("value", [hello, careful, "hello", {"hello": hello}, None])
def test_a_value_that_is_not_a_list_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"functions must be a list or a tuple.*comma missing"):
        settings_with(staticmethod(value) if value is hello else value)


@pytest.mark.parametrize("value", [3, "hello", lambda _: None, None, Parent])
def test_a_function_that_is_not_async_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="is not an async function"):
        settings_with([value])
