"""The names of all keys, in Python and in Lua."""

import re
from pathlib import Path

import pytest
import workerbase
from hypothesis import given, settings
from hypothesis import strategies as st
from workerbase.broker import keys
from workerbase.types import RedisClient

unhurried = settings(deadline=None, max_examples=50)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200)


@unhurried
@given(names)
def test_the_dlq_of_a_stream_is_its_name_and_dlq(name: str) -> None:
    assert keys.dlq(name) == f"{name}:dlq"
    assert keys.parked(name) == f"{name}:parked"


@unhurried
@given(names, names)
def test_a_valid_stream_name_is_returned_and_names_derived_from_it_are_refused(
    name: str, other: str
) -> None:
    assert keys.check_stream_name(f"{name[:190]}x") == f"{name[:190]}x"
    for made in (keys.dlq(name[:190]), keys.parked(name[:190])):
        with pytest.raises(ValueError, match="must not end in"):
            keys.check_stream_name(made)
    if name != other:
        assert keys.requeued("s", name) != keys.requeued("s", other)
        assert keys.requeue_job_id("s", "g", name) != keys.requeue_job_id("s", "g", other)
        assert keys.requeue_job_id("s", name, "1-0") != keys.requeue_job_id("s", other, "1-0")


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "a\tb", "\x00", "x" * 201, None, b"x"])
def test_an_invalid_stream_name_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="must be 1-200 characters without blanks"):
        keys.check_stream_name(name)


# --- the Lua counterpart

IN_LUA = {
    "job_key": keys.job,
    "result_key": keys.result,
    "in_progress_key": keys.in_progress,
    "retry_key": keys.retry,
    "abort_key": keys.abort,
    "alive_key": keys.alive,
    "idle_key": keys.idle,
    "wake_channel": keys.wake,
    "hand_over_channel": keys.hand_over,
    "oldest_key": keys.oldest,
}
LUA = (Path(workerbase.__file__).parent / "broker" / "lua" / "keys.lua").read_text()


def test_every_function_of_the_lua_file_has_a_counterpart() -> None:
    assert set(re.findall(r"local function (\w+)", LUA)) == set(IN_LUA)


@pytest.mark.parametrize("name", IN_LUA)
async def test_lua_and_python_build_the_same_key(client: RedisClient, name: str) -> None:
    function = IN_LUA[name]
    count = LUA.partition(f"local function {name}(")[2].partition(")")[0].count(",") + 1
    arguments = ["mail", "j:1"][:count]
    script = f"{LUA}\nreturn {name}(unpack(ARGV))"
    built = await client.execute_command("EVAL", script, 0, *arguments)
    assert built.decode() == function(*arguments)


@pytest.mark.parametrize(
    ("built", "key"),
    [
        (keys.job("q", "1"), "arq:job:1"),
        (keys.result("q", "1"), "arq:result:1"),
        (keys.in_progress("q", "1"), "arq:in-progress:1"),
        (keys.retry("q", "1"), "arq:retry:1"),
        (keys.abort("q"), "arq:abort"),
        (keys.tick("q", "cron:nightly"), "q:cron:cron:nightly"),
        (keys.idle("q"), "q:idle"),
        (keys.alive("q"), "q:alive"),
        (keys.answer("q", "me:claim"), "q:answer:me:claim"),
        (keys.wake("q"), "q:wake"),
        (keys.requeued("s", "workers:1-0"), "s:requeued:workers:1-0"),
        (keys.requeue_job_id("s", "workers", "1-0"), "requeue:s:1-0:workers"),
        (keys.deferred_types("s", "workers"), "s:deferred:workers"),
        (keys.deferred("s", "workers", "order.placed"), "s:deferred:workers:order.placed"),
        (keys.oldest("s:dlq", "workers"), "s:dlq:oldest:workers"),
        (keys.hand_over("q", "me"), "q:wake:claim:me"),
    ],
)
def test_keys_keep_their_form_since_data_outlives_code(built: str, key: str) -> None:
    assert built == key


def test_the_id_of_a_requeue_job_can_be_taken_apart() -> None:
    found = keys.REQUEUE_JOB_ID.fullmatch(keys.requeue_job_id("shop:orders", "a:b", "17-3"))
    assert found
    assert found.groupdict() == {"stream": "shop:orders", "entry_id": "17-3", "group": "a:b"}
    former = keys.REQUEUE_JOB_ID.fullmatch("requeue:shop:orders:17-3")
    assert former
    assert former.groupdict() == {"stream": "shop:orders", "entry_id": "17-3", "group": None}
    assert not keys.REQUEUE_JOB_ID.fullmatch("requeue:orders:x")


def test_ticks_of_two_queues_have_ids_of_their_own_and_those_of_arqs_queue_arqs_form() -> None:
    assert keys.tick_job_id("billing", "cron:tidy", 5) == "billing:cron:tidy:5"
    assert keys.tick_job_id("arq:queue", "cron:tidy", 5) == "cron:tidy:5"


def test_the_overview_lists_every_key() -> None:
    assert keys.__doc__
    for key in (
        "{stream}:dlq",
        "{stream}:parked",
        "{queue}:dlq",
        "{queue}:idle",
        "{queue}:wake",
        "arq:job:",
        "arq:result:",
        "arq:in-progress:",
        "arq:retry:",
        "arq:abort",
    ):
        assert key in keys.__doc__  # fmt: skip
