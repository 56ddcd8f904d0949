# Owned by arq-worker-template: `copier update` overwrites edits; configure BaseArqWorkerSettings.
"""arq's worker without arq's limits: its API, keys and wire format, another engine.

Due jobs are claimed in one round trip for all free slots, a little ahead of them (see `buffer`);
a claim is a lease that is renewed while the job runs, so a dead worker's jobs run again within
one lease. An enqueue by our clients wakes an idle worker; others are found by polling. What
fails is retried or dead-lettered as the policy says. Redis being away only delays all of it.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, Self, cast
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import abort_job_max_age, abort_jobs_ss, retry_key_prefix
from arq.cron import CronJob
from arq.jobs import SerializationError
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms, truncate
from arq.worker import Function, JobExecutionFailed, RetryJob, Worker, get_kwargs
from arq.worker import Retry as ArqRetry

from . import deadletter, keys, lease, wire
from .attempt import Attempt, Codec, RefusedError
from .base import BaseArqWorkerSettings
from .batch import Batcher
from .buffer import Buffer
from .config import WorkerConfig
from .connect import OUTAGE_ERRORS
from .cron import enqueue_due
from .health import Vitals
from .jobqueue import BATCH, TRIES_TTL_MS, Claim, Ended, JobQueue, QueueClient
from .link import RedisLink
from .monitor import Monitors
from .retry import DeadLetter, Reason, Retry, RetryPolicy
from .services import Services
from .task_utils import Task
from .types import Ctx, Hook, RedisClient

logger = logging.getLogger(__name__)

UPKEEP_S = 0.5
"""How often cron jobs and aborted jobs are looked at."""
CANCEL_S = 5
"""How long a cancelled job may take to notice."""


class JobWorker(Worker):
    """An arq worker with leases, retries, dead letters and a claim of its own.

    It takes arq's arguments and these; `of` makes one from a settings class.

    Args:
        policy: when a job that raised is retried; without one the rules are plain arq's, and
            there are no dead letters.
        lease_timeout: a dead worker's jobs run again within so many seconds.
        prefetch: at most so many jobs wait in this process beside those that run.
        dlq_max_entries: bound of the queue's DLQ.
        link: what the process knows about Redis.
        monitors: told what happens.
    """

    def __init__(
        self,
        functions: Sequence[Any] = (),
        *,
        policy: RetryPolicy | None = None,
        lease_timeout: float = 15.0,
        prefetch: int = 500,
        dlq_max_entries: int = 1_000_000,
        link: RedisLink | None = None,
        monitors: Monitors | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(functions, **arguments)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._policy = policy
        self._lease_timeout = lease_timeout
        self._dlq_max_entries = dlq_max_entries
        self._link = link or RedisLink()
        self._buffer: Buffer[Claim] = Buffer(self.max_jobs, prefetch)
        self._held: dict[str, Claim] = {}
        self._monitors = monitors or Monitors()
        self._finisher = Batcher(self._finish, "ending jobs", self._link)
        self._wake = asyncio.Event()
        self._more = False
        self._draining = False
        self._codec = Codec.of(self.job_serializer, self.job_deserializer)
        self._claiming_since: float | None = None

    @classmethod
    def of(
        cls,
        settings: type[BaseArqWorkerSettings],
        redis: ArqRedis,
        ctx: Ctx,
        link: RedisLink,
        monitors: Monitors | None = None,
    ) -> Self:
        """Make the worker of ``settings`` that runs as one service of a process."""
        arguments: dict[str, Any] = get_kwargs(cast("Any", settings))
        arguments |= {"redis_pool": redis, "redis_settings": None, "ctx": ctx}
        config = settings.config or WorkerConfig.load()
        return cls(
            policy=config.retry_policy(settings.permanent_errors, settings.transient_errors),
            lease_timeout=config.lease_timeout,
            prefetch=config.prefetch,
            dlq_max_entries=config.dlq_max_entries,
            link=link,
            monitors=monitors,
            handle_signals=False,
            **arguments,
        )

    @cached_property
    def _queue(self) -> JobQueue:
        client = cast("RedisClient", self.pool)
        return JobQueue(client, self.queue_name, self.name, self._lease_timeout)

    def vitals(self) -> Vitals:
        """Say how the worker is, for the heartbeat."""
        # Waiting for a free slot is no standstill; a claim that never returns is.
        since = self._claiming_since
        return Vitals("job queue", time.monotonic() if since is None else since)

    # --- life cycle

    async def serve(self, stop: asyncio.Event, drain_seconds: float) -> None:
        """Run jobs until ``stop`` is set, then give them ``drain_seconds`` to finish.

        Jobs that do not finish are cancelled and handed back.

        Raises:
            WorkerError: a loop ended that must not; what runs was drained all the same.
        """
        logger.info("running jobs of %s: %s", self.queue_name, ", ".join(self.functions))
        intake, core = Services(), Services()
        self._start_core(core)
        intake.start("jobs: claim", self._claim_loop())
        intake.start("jobs: wake", self._wake_loop())
        intake.start("jobs: upkeep", self._upkeep_loop())
        try:
            await Services.wait(stop, intake, core)
        finally:
            await intake.cancel()
            await self._drain(drain_seconds)
            await core.cancel()

    async def main(self) -> None:
        """Run as arq's worker does, polling; `serve` does it better."""
        core = Services()
        self._start_core(core)
        try:
            await super().main()
        finally:
            await core.cancel()

    def _start_core(self, core: Services) -> None:
        core.start("jobs: leases", self._renew_loop())
        core.start("jobs: ends", self._finisher.run())

    async def run_due(self) -> None:
        """Run the jobs that are due now and wait for them."""
        self.ctx["redis"] = self.pool
        core = Services()
        self._start_core(core)
        try:
            while True:
                await self._claim(self.max_jobs)
                if not self.tasks:
                    return
                await asyncio.wait(self.tasks.values())
        finally:
            await core.cancel()

    async def startup(self) -> None:
        """Run the startup hook."""
        self.ctx["redis"] = self.pool
        if self.on_startup is not None:
            await cast("Hook", self.on_startup)(cast("Ctx", self.ctx))

    async def shutdown(self) -> None:
        """Run the shutdown hook."""
        if self.on_shutdown is not None:
            await cast("Hook", self.on_shutdown)(cast("Ctx", self.ctx))

    async def _drain(self, seconds: float) -> None:
        self._buffer.close()
        await self._hand_back([claim for claim in self._held.values() if not claim.started])
        if self.tasks:
            logger.info("draining: %d jobs still run", len(self.tasks))
            _, late = await asyncio.wait(self.tasks.values(), timeout=seconds)
            if late:
                logger.warning(
                    "drain took longer than %g s; %d jobs are cancelled and handed back",
                    seconds,
                    len(late),
                )
                self._draining = True
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=CANCEL_S)
        with contextlib.suppress(*OUTAGE_ERRORS):  # it expires by itself
            await self.pool.delete(self.health_check_key)

    async def _hand_back(self, claims: list[Claim]) -> None:
        try:
            for claim in claims:
                await self._queue.release(claim.job_id, uncounted=True)
                self._forget(claim)
        except OUTAGE_ERRORS as exc:  # one is enough: each takes as long as Redis's timeout
            logger.warning("could not hand jobs back (%s); they wait a lease", exc)

    # --- claiming

    async def _claim_loop(self) -> None:
        while True:
            most = await self._buffer.room()
            self._wake.clear()
            self._claiming_since = time.monotonic()
            try:
                wait = await self._claim(most)
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "claiming jobs")
                continue
            finally:
                self._claiming_since = None
            self._link.ok()
            if wait is None:
                continue
            # Not wait_for: Python 3.11's forgets a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _claim(self, most: int) -> float | None:
        """Claim and start jobs; return how long to wait before the next claim, if at all."""
        free, most = max(0, self._free()), min(most, BATCH)
        suspects = not any(claim.suspect for claim in self._held.values())
        claims, next_due = await self._queue.claim(
            free, most, aborts=self.allow_abort_jobs, suspects=suspects
        )
        self._take(claims)
        # Due and left: it was tried before and waits for a slot, which says so when it is free.
        self._more = next_due is not None and next_due <= 0
        if len(claims) == most or (self._more and self._free() > max(0, free - len(claims))):
            return None
        # Leases that begin after this look end after the next.
        wait = min(self.poll_delay_s, self._queue.lease_seconds)
        return wait if next_due is None or self._more else min(next_due, wait)

    def _free(self) -> int:
        return self.max_jobs - self._buffer.running - len(self._buffer)

    def _take(self, claims: list[Claim]) -> None:
        self._monitors.leases("job", "taken_over", sum(claim.crashed for claim in claims))
        for claim in claims:
            former, self._held[claim.job_id] = self._held.get(claim.job_id), claim
            if claim.job_id in self.job_tasks:
                continue  # it runs here: its lease had run out, and is ours again
            if former is not None:
                self._buffer.drop({former})
            self._buffer.add([claim])
        self._start_ready()

    def _forget(self, claim: Claim) -> None:
        # A job that was released may have been claimed again before we come here.
        if self._held.get(claim.job_id) is claim:
            del self._held[claim.job_id]

    def _start_ready(self) -> None:
        while self._buffer.running < self.max_jobs and (claim := self._buffer.take()) is not None:
            task = asyncio.create_task(self._run(claim))
            self.tasks[claim.job_id] = task
            task.add_done_callback(partial(self._ran, claim.job_id))

    def _ran(self, job_id: str, task: "asyncio.Task[None]") -> None:
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id]

    async def _poll_iteration(self) -> None:
        """Do one pass for `main`, which arq wrote."""
        most = self.queue_read_limit
        if self.burst and self.max_burst_jobs >= 0:
            most = self.max_burst_jobs - self._jobs_started() - len(self._buffer)
        most = min(most, self._free())
        if self.allow_pick_jobs and most > 0:
            await self._claim(most)
        if self.allow_abort_jobs:
            await self._cancel_aborted_jobs()
        await self.heart_beat()

    async def _wake_loop(self) -> None:
        while True:
            # The client subscribes again by itself, and says so in a message: that, too, is a
            # reason to look, for what was enqueued while nobody listened.
            pubsub = cast("Any", self.pool).pubsub()
            try:
                await pubsub.subscribe(keys.wake(self.queue_name))
                while True:
                    if await pubsub.get_message(timeout=60.0) is not None:
                        self._wake.set()
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "listening for new jobs")
            finally:
                with contextlib.suppress(*OUTAGE_ERRORS):
                    await pubsub.aclose()

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._lease_timeout * lease.RENEW_SHARE)
            held = dict(self._held)
            try:
                lost = await self._queue.renew(held)
            except OUTAGE_ERRORS as exc:
                self._link.failed(exc, "renewing leases of jobs")
                continue
            self._lose({held[job_id] for job_id in lost})
            self._monitors.leases("job", "renewed", len(held) - len(lost))
            self._monitors.leases("job", "lost", len(lost))

    def _lose(self, gone: set[Claim]) -> None:
        for claim in gone:
            self._forget(claim)
            if claim.job_id in self.tasks:
                logger.warning(
                    "the lease of job %s ran out while it ran; it may run twice", claim.job_id
                )
        self._buffer.drop(gone)

    # --- upkeep

    async def _upkeep_loop(self) -> None:
        while True:
            try:
                if self.allow_abort_jobs:
                    await self._cancel_aborted_jobs()
                await self.heart_beat()
            except OUTAGE_ERRORS as exc:
                await self._link.wait_after(exc, "looking after cron jobs")
            await asyncio.sleep(UPKEEP_S)

    async def _cancel_aborted_jobs(self) -> None:
        """Cancel the running jobs that somebody asked to abort."""
        now = timestamp_ms()
        client = cast("RedisClient", self.pool)
        wanted: list[bytes] = await client.execute_command("ZRANGE", abort_jobs_ss, 0, -1)
        for job_id in map(bytes.decode, wanted):
            if job_id in self.job_tasks:
                self.aborting_tasks.add(job_id)
                self.job_tasks[job_id].cancel()
                await self.pool.zrem(abort_jobs_ss, job_id)
        if wanted:  # as arq does; requests for jobs that were done already remain
            await self.pool.zremrangebyscore(abort_jobs_ss, "-inf", now - abort_job_max_age * 1000)

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs whose time has come."""
        ahead = timedelta(seconds=delay * num_windows)
        if self.cron_jobs:
            await enqueue_due(self._client, self.queue_name, self.cron_jobs, n, ahead)

    @cached_property
    def _client(self) -> QueueClient:
        if isinstance(self.pool, QueueClient):
            return self.pool
        return QueueClient(
            cast("Any", self.pool).connection_pool,
            job_serializer=self.job_serializer,
            default_queue_name=self.queue_name,
            expires_extra_ms=self.expires_extra_ms,
        )

    # --- one job

    async def _run(self, claim: Claim) -> None:
        """Run a claimed job and say what came of it."""
        started = time.monotonic()
        attempt = Attempt(claim, self._codec, claim.job_try)
        try:
            try:
                await self._attempt(attempt)
            finally:
                self.job_tasks.pop(claim.job_id, None)
                self._buffer.done(time.monotonic() - started)
                self._start_ready()
                if self._more:
                    self._wake.set()
            await asyncio.shield(self._settle(attempt))
            if attempt.ctx:
                await self._hook("after_job_end", attempt)
        except Exception:
            logger.exception("job %s could not be run to its end; it is run again", claim.job_id)
        finally:
            self._forget(claim)
            self.aborting_tasks.discard(claim.job_id)  # it may have ended all the same
            if claim.suspect:
                self._wake.set()  # the next one may be claimed

    async def _attempt(self, attempt: Attempt) -> None:
        """Run the job and decide what is to follow."""
        try:
            await self._prepare(attempt)
        except RefusedError as refused:
            attempt.error = attempt.result = refused.error
            attempt.decision = refused.decision if self._policy else None
            self.jobs_failed += 1
            return
        function = cast("Function | CronJob", attempt.function)
        attempt.ctx = {
            **cast("Ctx", self.ctx),
            "job_id": attempt.claim.job_id,
            "job_try": attempt.job_try,
            "enqueue_time": ms_to_datetime(attempt.enqueue_ms),
            "score": int(attempt.claim.score),
        }
        await self._hook("on_job_start", attempt)
        attempt.start_ms = timestamp_ms()
        timeout = self.job_timeout_s if function.timeout_s is None else function.timeout_s
        try:
            self._log_start(attempt)
            self.job_tasks[attempt.claim.job_id] = cast("asyncio.Task[Any]", asyncio.current_task())
            async with asyncio.timeout(timeout):
                attempt.result = await self._call(function, attempt)
            shown = self._shown(attempt.result)
        except (Exception, asyncio.CancelledError, SystemExit) as exc:
            attempt.error = attempt.result = exc
            self._judge(attempt, exc)
        else:
            self.jobs_complete += 1
            logger.info("%6.2fs ← %s ● %s", attempt.seconds(attempt.start_ms), attempt.ref, shown)
        attempt.ran_seconds = attempt.seconds(attempt.start_ms)
        self.job_tasks.pop(attempt.claim.job_id, None)
        await self._hook("on_job_end", attempt)

    async def _call(self, function: Function | CronJob, attempt: Attempt) -> object:
        run: Callable[..., Awaitable[object]] = cast("Any", function.coroutine)
        if self._policy is not None:
            run = Task.of(function) or run
        if not self._monitors:
            return await run(attempt.ctx, *attempt.args, **attempt.kwargs)
        with self._monitors.running(attempt.work(self.queue_name)):
            return await run(attempt.ctx, *attempt.args, **attempt.kwargs)

    def _shown(self, result: object) -> str:
        if result is None or not self.log_results or not logger.isEnabledFor(logging.INFO):
            return ""
        return truncate(repr(result))

    async def _prepare(self, attempt: Attempt) -> None:
        """Read the job.

        Raises:
            RefusedError: it cannot be run.
        """
        claim = attempt.claim
        if claim.job is None:
            logger.warning("job %s expired", claim.job_id)
            raise RefusedError(JobExecutionFailed("job expired"))
        try:
            enqueued_try = attempt.read()
        except SerializationError as exc:
            logger.exception("deserializing job %s failed", claim.job_id)
            raise RefusedError(exc, "invalid") from None
        if claim.aborted:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.info("%6.2fs ⊘ %s aborted before start", waited, attempt.ref)
            raise RefusedError(asyncio.CancelledError())
        name = attempt.function_name
        attempt.function = self.functions.get(name)
        if attempt.function is None:
            logger.warning("job %s, function %r not found", claim.job_id, name)
            raise RefusedError(JobExecutionFailed(f"function {name!r} not found"), "unknown")
        if enqueued_try > attempt.job_try:
            attempt.job_try = enqueued_try
            await self.pool.psetex(retry_key_prefix + claim.job_id, TRIES_TTL_MS, str(enqueued_try))
        most = self._max_tries(attempt.function)
        if attempt.job_try > most:
            waited = attempt.seconds(attempt.enqueue_ms)
            logger.warning("%6.2fs ! %s max retries %d exceeded", waited, attempt.ref, most)
            reason: Reason = "poison" if claim.crashed else "retries"
            raise RefusedError(JobExecutionFailed(f"max {most} retries exceeded"), reason)

    def _max_tries(self, function: Function | CronJob) -> int:
        return self.max_tries if function.max_tries is None else function.max_tries

    def _policy_of(self, default: RetryPolicy, function: Function | CronJob) -> RetryPolicy:
        task = Task.of(function)
        policy = default if task is None else task.policy(default)
        return replace(policy, max_retries=self._max_tries(function))

    def _log_start(self, attempt: Attempt) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        extra = f" try={attempt.job_try}" if attempt.job_try > 1 else ""
        late = (attempt.start_ms - attempt.claim.score) / 1000
        if late > 1.2:  # noqa: PLR2004 - arq's
            extra += f" delayed={late:0.2f}s"
        arguments = args_to_string(attempt.args, attempt.kwargs)
        waited = attempt.seconds(attempt.enqueue_ms)
        logger.info("%6.2fs → %s(%s)%s", waited, attempt.ref, arguments, extra)

    def _judge(self, attempt: Attempt, error: BaseException) -> None:
        """Decide what follows a failure."""
        job_id, took = attempt.claim.job_id, attempt.seconds(attempt.start_ms)
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # the job was meant, not what is to be told about it
        if job_id in self.aborting_tasks and isinstance(error, asyncio.CancelledError):
            logger.info("%6.2fs ⊘ %s aborted", took, attempt.ref)
            self.jobs_failed += 1
        elif self.retry_jobs and isinstance(error, asyncio.CancelledError | RetryJob | ArqRetry):
            attempt.uncounted = self._draining and isinstance(error, asyncio.CancelledError)
            delay = ((error.defer_score or 0) if isinstance(error, ArqRetry) else 0) / 1000
            attempt.error = error.__cause__
            if isinstance(error, ArqRetry):
                logger.info("%6.2fs ↻ %s retrying job in %0.2fs", took, attempt.ref, delay)
            else:
                logger.info("%6.2fs ↻ %s cancelled, will be run again", took, attempt.ref)
            self.jobs_retried += 1
            attempt.decision = Retry(delay)
        else:
            self._judge_exception(attempt, error, took)

    def _judge_exception(self, attempt: Attempt, error: BaseException, took: float) -> None:
        what = f"{type(error).__name__}: {deadletter.text_of(error)}"
        if self._policy is not None and attempt.function is not None:
            policy = self._policy_of(self._policy, attempt.function)
            attempt.decision = policy.decide(error, attempt.job_try)
        if isinstance(attempt.decision, Retry) and not self.retry_jobs:
            attempt.decision = DeadLetter("retries")
        if isinstance(attempt.decision, Retry):
            wait = attempt.decision.delay
            logger.warning("%6.2fs ↻ %s failed, %s, retry in %.2fs", took, attempt.ref, what, wait)
            self.jobs_retried += 1
            return
        extra = getattr(error, "extra", None)
        logger.error(
            "%6.2fs ! %s failed, %s",
            took,
            attempt.ref,
            what,
            exc_info=error,
            extra={"extra": extra() if callable(extra) else extra},
        )
        self.jobs_failed += 1

    async def _hook(self, name: str, attempt: Attempt) -> None:
        hook = cast("Callable[[Ctx], Any] | None", getattr(self, name))
        if hook is None:
            return
        try:
            await hook(attempt.ctx)
        except Exception:
            logger.exception("%s of job %s failed; the job goes on", name, attempt.claim.job_id)

    # --- what came of it

    async def _settle(self, attempt: Attempt) -> None:
        decision = attempt.decision
        if isinstance(decision, Retry):
            write = partial(self._release, attempt, decision)
        elif isinstance(decision, DeadLetter):
            write = partial(self._bury, attempt, decision)
        else:
            write = partial(self._end, attempt)
        try:
            owned = await self._link.until_taken("settling a job", write, lambda: self._draining)
        except OUTAGE_ERRORS as exc:
            logger.warning("%s is not settled (%s); its lease runs out", attempt.ref, exc)
            return
        if not owned:
            logger.warning("%s ended after its lease had run out; it may run twice", attempt.ref)
        if self._monitors:
            outcome = attempt.outcome if owned else "lease_lost"
            work = attempt.work(self.queue_name)
            self._monitors.ended(work, outcome, attempt.error, attempt.ran_seconds)

    async def _release(self, attempt: Attempt, decision: Retry) -> bool:
        job = b""
        if self._policy is not None and attempt.error is not None:
            job, _ = attempt.rewritten(attempt.error)
        job_id, uncounted = attempt.claim.job_id, attempt.uncounted
        owned = await self._queue.release(job_id, decision.delay, job=job, uncounted=uncounted)
        self._wake.set()
        return owned

    async def _bury(self, attempt: Attempt, decision: DeadLetter) -> bool:
        letter = wire.flatten(attempt.letter(self.queue_name, self.name, decision.reason))
        dropped = await self._queue.bury(self._ended(attempt), letter, self._dlq_max_entries)
        if dropped > 0:
            logger.error(deadletter.FULL, keys.dlq(self.queue_name), dropped)
        return dropped >= 0

    async def _end(self, attempt: Attempt) -> bool:
        owned: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._finisher.add((self._ended(attempt), owned))
        return await owned

    def _ended(self, attempt: Attempt) -> Ended:
        return attempt.ended(
            self.queue_name, self.keep_result_s or 0, forever=self.keep_result_forever
        )

    async def _finish(self, batch: list[tuple[Ended, "asyncio.Future[bool]"]]) -> None:
        lost = set(await self._queue.finish([ended for ended, _ in batch]))
        for ended, owned in batch:
            if not owned.done():
                owned.set_result(ended.job_id not in lost)
