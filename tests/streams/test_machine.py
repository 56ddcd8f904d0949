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
    reclaim,
    run_jobs,
    send,
    settlement_of,
    worker_for,
)
from workerbase.broker import codec, keys
from workerbase.broker.client import connect
from workerbase.engine.retry_policy import DeadLetter, Retry, RetryPolicy
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.entry import Delivery, EntryHeader
from workerbase.streams.janitor import Janitor
from workerbase.streams.leases import StreamLeases
from workerbase.streams.settlement import StreamSettlement
from workerbase.streams.suspects import Note
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId
from workerconfig import Config

MAX_DELIVERIES = 3
ROUTER = EventRouter()


@ROUTER.on(Work)
async def handle(event: Work, ctx: EventContext) -> None: ...


@dataclass(eq=False)
class Member:
    """One consumer: what it has in hand, and the modules it works with."""

    name: str
    leases: StreamLeases
    settlement: StreamSettlement
    hand: dict[EntryId, Delivery]


class Machine(RuleBasedStateMachine):
    """Hypothesis calls the rules in any order; each is one step of somebody."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.loop = asyncio.new_event_loop()
        self.config = Config.model_validate({"redis_dsn": self.server.dsn})
        self.redis: Any = connect(self.config.dsn)
        self.policy = RetryPolicy(max_retries=3, base=0.0)
        self.janitor = Janitor(worker_for(self.redis, self.config), ROUTER, self.config, "nobody")
        self.dlq = DeadLetterQueue.of_source(self.redis, STREAM)
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
        leases = StreamLeases(self.redis, STREAM, GROUP, name, 15.0)
        return Member(name, leases, settlement_of(self.redis, name), {})

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
        """The handler returns; the worker may die before the acknowledgement."""
        for delivery in self.take(who):
            self.handled.add(EntryHeader.from_delivery(delivery).message_id)
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
        error, attempt = ValueError("failed"), EntryHeader.from_delivery(delivery).attempt
        decision = DeadLetter("permanent") if permanent else self.policy.decide(error, attempt)
        if isinstance(decision, Retry):
            await member.settlement.retry(delivery, error, decision)
        else:
            await member.settlement.set_aside(delivery, error, decision, attempt)

    @rule(who=st.integers(0, 1))
    def crash(self, who: int) -> None:
        """SIGKILL: what it had in hand stays pending under its name; another one starts."""
        self.members[who] = self.new_member()

    @rule()
    def sleep_through_the_lease(self) -> None:
        """It keeps what it has in hand, and does not know that others may reclaim it."""
        self.do(expire_leases(self.redis))

    @rule(who=st.integers(0, 1))
    def renew(self, who: int) -> None:
        member = self.members[who]
        for entry_id in self.do(member.leases.renew(list(member.hand))):
            del member.hand[entry_id]

    @rule(who=st.integers(0, 1), limit=st.integers(1, 3))
    def recover(self, who: int, limit: int) -> None:
        self.do(self.reclaim(self.members[who], limit))

    async def reclaim(self, member: Member, limit: int = 1) -> int:
        reclaimed = await reclaim(member.leases, limit)
        assert len(reclaimed) <= limit
        for entry in reclaimed:
            assert not entry.deleted, "nobody deletes what is pending"
            delivery = entry
            if delivery.deliveries >= MAX_DELIVERIES:
                decision = DeadLetter("poison")
                await member.settlement.set_aside(delivery, ValueError("poison"), decision, 1)
            elif await member.leases.start(
                (delivery.entry_id, delivery.deliveries + 1, Note(starting=True))
            ):
                member.hand[delivery.entry_id] = delivery
        return len(reclaimed)

    @rule(who=st.integers(0, 1))
    def drain(self, who: int) -> None:
        member = self.members[who]
        self.do(member.leases.release_all())
        self.do(member.leases.remove_self())
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
    def remove_idle_consumers(self) -> None:
        self.do(self.janitor.remove_idle_consumers(STREAM))

    # --- what must be true

    async def places(self) -> dict[str, list[str]]:
        """Return where each message is: live means that somebody will still get it."""
        info = (await self.redis.execute_command("XINFO", "GROUPS", STREAM))[0]
        last = tuple(map(int, codec.decode(info[info.index(b"last-delivered-id") + 1]).split("-")))
        open_ids = {codec.decode(row["message_id"]) for row in await pending(self.redis)}
        found: dict[str, list[str]] = {message: [] for message in self.published}
        for raw_id, fields in await self.redis.execute_command("XRANGE", STREAM, "-", "+"):
            entry_id = codec.decode(raw_id)
            undelivered = tuple(map(int, entry_id.split("-"))) > last
            if entry_id in open_ids or undelivered:
                found[fields[b"_id"].decode()].append("live")
        for raw_id in await self.redis.execute_command("ZRANGE", "arq:queue", 0, -1):
            raw = await self.redis.execute_command("GET", f"arq:job:{codec.decode(raw_id)}")
            found[codec.loads(raw)["a"][1]["_id"]].append("job")  # type: ignore[index]
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
                self.handled.add(EntryHeader.from_delivery(delivery).message_id)
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
            assert codec.decode(key) in kept or await self.redis.execute_command("TTL", key) >= 0


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
