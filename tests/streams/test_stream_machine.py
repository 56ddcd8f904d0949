"""Every order of publishing, reading, crashing, failing, replaying and trimming, against a model.

The machine takes the steps that workers, operators and time take, one after the other, with the
very modules that do so in a worker. After each step every message must be somewhere; at the end,
when all is settled, in exactly one final place.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

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
from streamkit import (
    GROUP,
    STREAM,
    Work,
    entries,
    expire_leases,
    make_group,
    pending,
    run_jobs,
    send,
)
from workerbase import keys, wire
from workerbase.config import WorkerConfig
from workerbase.connect import connect
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.events import EventContext, EventRouter, Head
from workerbase.janitor import Janitor
from workerbase.lease import Delivery, Leases
from workerbase.link import RedisLink
from workerbase.retry import DeadLetter, Retry, RetryPolicy
from workerbase.settle import Settler
from workerbase.types import EntryId

MAX_DELIVERIES = 3
ROUTER = EventRouter()


@ROUTER.on(Work)
async def handle(event: Work, ctx: EventContext) -> None: ...


@dataclass(eq=False)
class Member:
    """One consumer: what it has in hand, and the modules it works with."""

    name: str
    leases: Leases
    settler: Settler
    hand: dict[EntryId, Delivery]


class Machine(RuleBasedStateMachine):
    """Hypothesis calls the rules in any order; each is one step of somebody."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.loop = asyncio.new_event_loop()
        self.config = WorkerConfig.model_validate({"redis_dsn": self.server.dsn})
        self.redis: Any = connect(self.config.location)
        self.policy = RetryPolicy(max_retries=3, base=0.0)
        self.janitor = Janitor(self.redis, ROUTER, self.config, "nobody", RedisLink())
        self.dlq = SetAside.dlq(self.redis, STREAM)
        self.members: list[Member] = []
        self.born = 0
        # The model: every message that was published, and what was done to it for good.
        self.published: set[str] = set()
        self.handled: set[str] = set()
        self.purged: set[str] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.do(self.settle_all())
        finally:
            self.do(self.redis.aclose(close_connection_pool=True))
            self.loop.close()

    # --- steps

    @initialize()
    def begin(self) -> None:
        self.do(make_group(self.redis))
        for _ in range(2):
            self.members.append(self.new_member())

    def new_member(self) -> Member:
        self.born += 1
        name = f"consumer-{self.born}"
        settler = Settler(
            self.redis, RedisLink(), group=GROUP, consumer=name, queue_name="arq:queue",
            dlq_max_entries=1000,
        )  # fmt: skip
        return Member(name, Leases(self.redis, STREAM, GROUP, name, 15.0), settler, {})

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        ids = self.do(send(self.redis, *range(count)))
        self.published |= {self.message_of(entry_id) for entry_id in ids}

    def message_of(self, entry_id: str) -> str:
        rows = self.do(self.redis.execute_command("XRANGE", STREAM, entry_id, entry_id))
        return rows[0][1][b"_id"].decode()

    @rule(who=st.integers(0, 1), count=st.integers(1, 3))
    def read(self, who: int, count: int) -> None:
        member = self.members[who]
        reply = self.do(
            self.redis.execute_command(
                "XREADGROUP", "GROUP", GROUP, member.name, "COUNT", count, "STREAMS", STREAM, ">"
            )
        )
        for _, rows in reply or ():
            for entry_id, fields in rows:
                flat = [part for pair in fields.items() for part in pair]
                delivery = Delivery(STREAM, EntryId(entry_id.decode()), flat)
                member.hand[delivery.entry_id] = delivery

    @rule(who=st.integers(0, 1), die=st.booleans())
    def succeed(self, who: int, die: bool) -> None:
        """The handler returns; the worker may die before it says so."""
        for delivery in self.take(who):
            self.handled.add(Head.of(delivery).message_id)
            if not die:
                self.do(self.redis.execute_command("XACK", STREAM, GROUP, delivery.entry_id))

    @rule(who=st.integers(0, 1), permanent=st.booleans(), twice=st.booleans())
    def fail(self, who: int, permanent: bool, twice: bool) -> None:
        """The handler raises; the answer of Redis may be lost, and the step is then repeated."""
        for delivery in self.take(who):
            for _ in range(1 + twice):
                self.do(self.settle(self.members[who], delivery, permanent))

    def take(self, who: int) -> Iterator[Delivery]:
        hand = self.members[who].hand
        if hand:
            yield hand.pop(next(iter(hand)))

    async def settle(self, member: Member, delivery: Delivery, permanent: bool) -> None:
        error, attempt = ValueError("failed"), Head.of(delivery).attempt
        decision = DeadLetter("permanent") if permanent else self.policy.decide(error, attempt)
        if isinstance(decision, Retry):
            await member.settler.retry(delivery, error, decision)
        else:
            await member.settler.set_aside(delivery, error, decision, attempt)

    @rule(who=st.integers(0, 1))
    def crash(self, who: int) -> None:
        """SIGKILL: what it had in hand stays pending under its name; another one starts."""
        self.members[who] = self.new_member()

    @rule()
    def sleep_through_the_lease(self) -> None:
        """It keeps what it has in hand, and does not know that others may take it."""
        self.do(expire_leases(self.redis))

    @rule(who=st.integers(0, 1))
    def renew(self, who: int) -> None:
        member = self.members[who]
        for entry_id in self.do(member.leases.renew(list(member.hand))):
            del member.hand[entry_id]

    @rule(who=st.integers(0, 1), most=st.integers(1, 3))
    def take_over(self, who: int, most: int) -> None:
        self.do(self.reclaim(self.members[who], most))

    async def reclaim(self, member: Member, most: int = 1) -> int:
        reclaimed = await member.leases.reclaim(most)
        assert len(reclaimed) <= most
        for entry in reclaimed:
            assert not entry.deleted, "nobody deletes what is pending"
            delivery = entry.delivery
            if delivery.deliveries >= MAX_DELIVERIES:
                decision = DeadLetter("poison")
                await member.settler.set_aside(delivery, ValueError("poison"), decision, 1)
            elif await member.leases.begin(delivery):
                member.hand[delivery.entry_id] = delivery
        return len(reclaimed)

    @rule(who=st.integers(0, 1))
    def drain(self, who: int) -> None:
        member = self.members[who]
        self.do(member.leases.hand_back())
        self.do(member.leases.leave())
        self.members[who] = self.new_member()

    @rule(twice=st.booleans())
    def run_the_jobs(self, twice: bool) -> None:
        self.do(run_jobs(self.redis, self.config, twice=twice))

    @precondition(lambda self: self.published)
    @rule(twice=st.booleans())
    def replay(self, twice: bool) -> None:
        for entry in self.dead()[:1]:
            for _ in range(1 + twice):
                self.do(self.dlq.replay(entry, 100))

    @precondition(lambda self: self.published)
    @rule()
    def purge(self) -> None:
        for entry in self.dead()[:1]:
            assert self.do(self.dlq.purge(entry))
            self.purged.add(entry.payload["_id"])

    def dead(self) -> list[Any]:
        async def scan() -> list[Any]:
            return [entry async for entry in self.dlq.scan()]

        return self.do(scan())

    @rule()
    def trim(self) -> None:
        self.do(self.janitor.trim(STREAM))

    @rule()
    def forget(self) -> None:
        self.do(self.janitor.forget(STREAM))

    # --- what must be true

    async def places(self) -> dict[str, list[str]]:
        """Say of each message where it is: live means that somebody will still get it."""
        info = (await self.redis.execute_command("XINFO", "GROUPS", STREAM))[0]
        last = tuple(map(int, wire.text(info[info.index(b"last-delivered-id") + 1]).split("-")))
        open_ids = {wire.text(row["message_id"]) for row in await pending(self.redis)}
        found: dict[str, list[str]] = {message: [] for message in self.published}
        for raw_id, fields in await self.redis.execute_command("XRANGE", STREAM, "-", "+"):
            entry_id = wire.text(raw_id)
            undelivered = tuple(map(int, entry_id.split("-"))) > last
            if entry_id in open_ids or undelivered:
                found[fields[b"_id"].decode()].append("live")
        for raw_id in await self.redis.execute_command("ZRANGE", "arq:queue", 0, -1):
            raw = await self.redis.execute_command("GET", f"arq:job:{wire.text(raw_id)}")
            found[wire.loads(raw)["a"][1]["_id"]].append("job")  # type: ignore[index]
        for payload in await entries(self.redis, keys.dlq(STREAM)):
            found[payload["_id"]].append("dead")
        return found

    @invariant()
    def every_message_is_somewhere_and_none_twice(self) -> None:
        for message, places in self.do(self.places()).items():
            assert len(places) <= 1, f"{message} is in {places}"
            assert places or message in self.handled | self.purged, f"{message} is lost"

    async def settle_all(self) -> None:
        """Let a healthy worker finish: then each message is in one final place."""
        if not self.members:
            return
        member = self.new_member()
        self.members[0] = member
        for _ in range(20):
            await expire_leases(self.redis)
            while await self.reclaim(member):
                pass
            reply = await self.redis.execute_command(
                "XREADGROUP", "GROUP", GROUP, member.name, "COUNT", 1000, "STREAMS", STREAM, ">"
            )
            for _, rows in reply or ():
                for entry_id, fields in rows:
                    flat = [part for pair in fields.items() for part in pair]
                    member.hand[entry_id] = Delivery(STREAM, EntryId(entry_id.decode()), flat)
            for delivery in member.hand.values():
                self.handled.add(Head.of(delivery).message_id)
                await self.redis.execute_command("XACK", STREAM, GROUP, delivery.entry_id)
            member.hand.clear()
            if not await run_jobs(self.redis, self.config) and not reply:
                break
        places = await self.places()
        for message, found in places.items():
            assert found in ([], ["dead"]), f"{message} is still in {found}"
            assert found or message in self.handled | self.purged, f"{message} is lost"
        await self.janitor.trim(STREAM)
        assert await entries(self.redis, STREAM) == []
        assert await pending(self.redis) == []
        kept = {keys.dlq(STREAM), STREAM}
        for key in await self.redis.execute_command("KEYS", "*"):
            assert wire.text(key) in kept or await self.redis.execute_command("TTL", key) >= 0


def test_no_message_is_ever_in_zero_places(each_server: Server) -> None:
    """``MACHINE_EXAMPLES`` asks for more than the few of a quick run."""
    Machine.server = each_server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("MACHINE_EXAMPLES", "20")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
