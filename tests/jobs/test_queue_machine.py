"""The steps of the queue, in any order, with a crash between any two of them.

After each step every job must be in exactly one place: it waits, is held, is dead, or is done.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

import redis as sync_redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jobkit import QUEUE, queue_of
from workerbase.broker import codec, keys
from workerbase.broker.client import connect
from workerbase.broker.queue_scripts import replay_job
from workerbase.jobs.queue import Claim
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

IDLE = QUEUE + ":idle"
WORKERS = ("w0", "w1", "w2")
IDS = ("a", "b", "c", "d")
LEASE_S = 100.0


@dataclass
class Model:
    """What is true of one job."""

    place: str = "nowhere"
    """waits, held, lapsed (its worker died), dead, done or nowhere."""
    owner: str = ""
    attempts: int = 0
    result: bool = False
    crashed: bool = False
    abort: bool = False


class QueueMachine(RuleBasedStateMachine):
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        config = Config.model_validate({"redis_dsn": self.server.dsn})
        self.client = connect(config.dsn)
        self.raw = sync_redis.Redis(port=self.server.port)
        self.raw.flushall()
        self.queues = {name: queue_of(self.client, name, LEASE_S) for name in WORKERS}
        self.jobs = {job_id: Model() for job_id in IDS}
        self.dead: list[str] = []
        self.listening: dict[str, Any] = {}
        self.idle: set[str] = set()

    def teardown(self) -> None:
        for pubsub in self.listening.values():
            pubsub.close()
        self.wait(self.client.aclose(close_connection_pool=True))
        self.loop.close()
        self.raw.close()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(job_ids=st.sets(st.sampled_from(IDS), min_size=1))
    def start(self, job_ids: set[str]) -> None:
        for job_id in sorted(job_ids):
            self.enqueue(job_id)

    @rule(job_id=st.sampled_from(IDS))
    def enqueue(self, job_id: str) -> None:
        model = self.jobs[job_id]
        added = self.wait(self.client.enqueue_job("any", _job_id=job_id))
        exists = model.place in ("waits", "held", "lapsed") or model.result
        assert (added is None) == exists
        if added is not None:
            # The count of a job that was dead or done is gone with it.
            self.jobs[job_id] = Model("waits", abort=False)
            self.is_handed_over(job_id)

    def is_handed_over(self, job_id: str) -> None:
        """An idle worker that listens is handed the job; those that do not listen are skipped."""
        able = self.idle & self.listening.keys()
        owner = self.owner_of(job_id)
        self.idle = {name.decode().partition(" ")[0] for name in self.raw.smembers(IDLE)}
        if not able:
            assert not owner
            assert not self.idle
            return
        assert owner in able - self.idle
        assert not self.idle & self.listening.keys() - able
        claim = Claim.from_hand_over(QUEUE, owner, self.message_to(owner))
        self.queues[owner].claims[job_id] = claim
        assert (claim.job_id, claim.job) == (job_id, self.raw.get("arq:job:" + job_id))
        assert (claim.attempt, claim.crashed, claim.aborted) == (1, False, False)
        self.jobs[job_id] = Model("held", owner, 1)

    def owner_of(self, job_id: str) -> str:
        """The worker that holds a job."""
        return (self.raw.get("arq:in-progress:" + job_id) or b"").decode().partition(" ")[0]

    def message_to(self, worker: str) -> bytes:
        while (message := self.listening[worker].get_message(timeout=5))["type"] != "message":
            pass
        return message["data"]

    @rule(worker=st.sampled_from(WORKERS))
    def listen(self, worker: str) -> None:
        if worker in self.listening:
            self.listening.pop(worker).close()
        else:
            self.listening[worker] = pubsub = self.raw.pubsub()
            pubsub.subscribe(keys.hand_over(QUEUE, worker))
            assert pubsub.get_message(timeout=5)["type"] == "subscribe"

    @rule(worker=st.sampled_from(WORKERS), keep=st.sets(st.sampled_from(IDS)))
    def release_all(self, worker: str, keep: set[str]) -> None:
        mine = set(self.held_by(worker)) - keep
        assert self.wait(self.queues[worker].release_all(keep)) == len(mine)
        self.idle.discard(worker)
        for job_id in mine:
            attempts = self.jobs[job_id].attempts - 1
            self.jobs[job_id] = Model("waits", attempts=attempts, abort=self.jobs[job_id].abort)

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 4), free=st.integers(0, 4),
          suspects=st.booleans(), aborts=st.booleans(), idle=st.booleans())  # fmt: skip
    def claim(
        self, *, worker: str, limit: int, free: int, suspects: bool, aborts: bool, idle: bool
    ) -> None:
        claims, next_due = self.wait(
            self.queues[worker].claim(free, limit, aborts=aborts, suspects=suspects, idle=idle)
        )
        assert len(claims) <= limit
        if len(claims) >= free:
            self.idle.discard(worker)
        elif idle:
            self.idle.add(worker)
            assert 0 < self.raw.pttl(IDLE) <= 100_000
        assert {name.decode().partition(" ")[0] for name in self.raw.smembers(IDLE)} == self.idle
        suspected = 0
        for number, claim in enumerate(claims):
            model = self.jobs[claim.job_id]
            assert model.place in ("waits", "lapsed")
            assert claim.attempt == model.attempts + 1
            assert claim.crashed == model.crashed
            assert claim.attempt == 1 or number < free
            assert claim.aborted == (aborts and model.abort)
            suspected += claim.suspect
            model.place, model.owner, model.attempts = "held", worker, claim.attempt
            model.crashed = False
            model.abort = model.abort and not aborts
        assert suspected <= suspects
        left = [m for m in self.jobs.values() if m.place in ("waits", "lapsed")]
        startable = [m for m in left if m.attempts == 0]
        if len(claims) < limit and startable:
            assert next_due is not None  # only behind one that waits for a slot
            assert next_due <= 0
        if not any(m.place in ("waits", "lapsed", "held") for m in self.jobs.values()):
            assert next_due is None

    def held_by(self, worker: str) -> list[str]:
        return [j for j, m in self.jobs.items() if m.place == "held" and m.owner == worker]

    def in_reach_of(self, worker: str) -> list[str]:
        """A job whose lease has ended, and that nobody claimed again, is as good as held."""
        return self.held_by(worker) + [j for j, m in self.jobs.items() if m.place == "lapsed"]

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        mine = self.in_reach_of(worker)
        assert sorted(self.wait(self.queues[worker].renew(IDS))) == sorted(set(IDS) - set(mine))
        for job_id in mine:
            model = self.jobs[job_id]
            model.place, model.owner, model.crashed = "held", worker, False
            assert self.raw.zscore(QUEUE, job_id) > (time.time() + 60) * 1000
            assert self.raw.pttl("arq:in-progress:" + job_id) > 60_000

    def any_held(self, data: st.DataObject) -> str:
        """Draw a job that a worker holds: most steps do nothing to the others."""
        return data.draw(st.sampled_from([j for j, m in self.jobs.items() if m.place == "held"]))

    @precondition(lambda self: any(m.place == "held" for m in self.jobs.values()))
    @rule(data=st.data())
    def lease_ends(self, data: st.DataObject) -> None:
        """Its worker died, and time passed."""
        job_id = self.any_held(data)
        score = self.raw.zscore(QUEUE, job_id)
        self.raw.delete("arq:in-progress:" + job_id)
        self.raw.zadd(QUEUE, {job_id: score - 200_000}, xx=True)
        self.jobs[job_id].place, self.jobs[job_id].crashed = "lapsed", True

    @rule(worker=st.sampled_from(WORKERS), job_ids=st.lists(st.sampled_from(IDS), unique=True),
          keep=st.sampled_from([None, 0, 60_000]))  # fmt: skip
    def finish(self, worker: str, job_ids: list[str], keep: int | None) -> None:
        if not job_ids:
            return
        result = None if keep is None else codec.dumps({"r": 1})
        queue = self.queues[worker]
        lost = self.wait(queue.finish([queue.ended(j, result, keep or 0) for j in job_ids]))
        mine = self.in_reach_of(worker)
        assert sorted(lost) == sorted(set(job_ids) - set(mine))
        for job_id in set(job_ids) & set(mine):
            self.queues[worker].claims.pop(job_id, None)
            self.jobs[job_id] = Model("done", result=result is not None)
            if result is not None:
                assert (self.raw.pttl("arq:result:" + job_id) > 0) == (keep != 0)

    @rule(worker=st.sampled_from(WORKERS), job_id=st.sampled_from(IDS), uncounted=st.booleans(),
          rewrite=st.booleans())  # fmt: skip
    def release(self, worker: str, job_id: str, uncounted: bool, rewrite: bool) -> None:
        job = codec.dumps({"t": 1, "f": "new", "a": [], "k": {}, "et": 1}) if rewrite else b""
        reach = self.in_reach_of(worker)
        released = self.wait(self.queues[worker].release(job_id, 0.0, job=job, uncounted=uncounted))
        model = self.jobs[job_id]
        assert released == (job_id in reach)
        if released:
            # A claim is settled once: asked again, the script repeats its answer.
            self.queues[worker].claims.pop(job_id, None)
            model.place, model.owner, model.crashed = "waits", "", False
            model.attempts -= uncounted
            assert not rewrite or self.raw.get("arq:job:" + job_id) == job
            assert self.raw.pttl("arq:job:" + job_id) == -1

    @rule(worker=st.sampled_from(WORKERS), job_id=st.sampled_from(IDS),
          bound=st.sampled_from([2, 100]))  # fmt: skip
    def dead_letter(self, worker: str, job_id: str, bound: int) -> None:
        letter = [b"_id", job_id.encode()]
        reach = self.in_reach_of(worker)
        ended = self.queues[worker].ended(job_id, None, 0)
        dropped = self.wait(self.queues[worker].dead_letter(ended, letter, bound))
        if job_id not in reach:
            assert dropped == -1
            return
        self.queues[worker].claims.pop(job_id, None)
        self.dead.append(job_id)
        assert dropped == max(0, len(self.dead) - bound)
        self.jobs[job_id] = Model("dead")
        del self.dead[:dropped]

    @precondition(lambda self: any(m.place == "held" for m in self.jobs.values()))
    @rule(data=st.data(), uncounted=st.booleans(), rewrite=st.booleans())
    def owner_releases(self, data: st.DataObject, uncounted: bool, rewrite: bool) -> None:
        job_id = self.any_held(data)
        self.release(self.jobs[job_id].owner, job_id, uncounted, rewrite)

    @precondition(lambda self: any(m.place == "held" for m in self.jobs.values()))
    @rule(data=st.data(), keep=st.sampled_from([None, 0, 60_000]))
    def owner_finishes(self, data: st.DataObject, keep: int | None) -> None:
        job_id = self.any_held(data)
        self.finish(self.jobs[job_id].owner, [job_id], keep)

    @precondition(lambda self: any(m.place == "held" for m in self.jobs.values()))
    @rule(data=st.data(), bound=st.sampled_from([2, 100]))
    def owner_dead_letters(self, data: st.DataObject, bound: int) -> None:
        job_id = self.any_held(data)
        self.dead_letter(self.jobs[job_id].owner, job_id, bound)

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.dead) - 1))
        entry_id, fields = self.raw.xrange(keys.dlq(QUEUE))[index]
        job_id = fields[b"_id"].decode()
        job = codec.dumps({"t": 1, "f": "any", "a": [], "k": {}, "et": 1})

        def replay() -> str:
            work = replay_job(
                cast("RedisClient", self.client),
                queue=QUEUE,
                entry_id=entry_id.decode(),
                job_id=job_id,
                job=job,
                expires_ms=60_000,
            )
            return cast("str", self.wait(work))

        if self.jobs[job_id].place in ("waits", "held", "lapsed"):
            assert replay() == "exists"
            return
        assert replay() == "replayed"
        assert replay() == "gone"
        del self.dead[index]
        self.jobs[job_id] = Model("waits")

    @rule(job_id=st.sampled_from(IDS))
    def ask_to_abort(self, job_id: str) -> None:
        self.raw.zadd("arq:abort", {job_id: time.time() * 1000})
        self.jobs[job_id].abort = True

    @invariant()
    def each_job_is_in_exactly_one_place(self) -> None:
        queued = {i.decode() for i in self.raw.zrange(QUEUE, 0, -1)}
        for job_id, model in self.jobs.items():
            owner = self.owner_of(job_id)
            lives = model.place in ("waits", "held", "lapsed")
            assert (job_id in queued) == lives, model
            assert bool(self.raw.exists("arq:job:" + job_id)) == lives, model
            assert owner == (model.owner if model.place == "held" else ""), model
            assert int(self.raw.get("arq:retry:" + job_id) or 0) == (model.attempts if lives else 0)
            assert bool(self.raw.exists("arq:result:" + job_id)) == model.result, model
        letters = [fields[b"_id"].decode() for _, fields in self.raw.xrange(keys.dlq(QUEUE))]
        assert letters == self.dead


def test_each_job_is_in_exactly_one_place_whatever_happens(server: Server) -> None:
    QueueMachine.server = server
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
