"""Delivery: every result to every destination, tried until it is proven or given up.

Due deliveries of the table enter; C-STORE requests leave through ``results.scu`` on a few threads,
one association a destination, and their outcome goes back into the table. The observer ticks it.
"""

import random
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from osteon.config.settings import DestinationSettings, Settings
from osteon.errors import DeliveryRefusedError, OsteonError, StaleTransition
from osteon.pipeline.backoff import JITTER, backoff_s
from osteon.pipeline.proof import Prover
from osteon.pipeline.sender import Sender, ThreadSender
from osteon.pipeline.table import deliveries, jobs, lines
from osteon.pipeline.table.connection import Row, Table
from osteon.results.peer import Destination
from osteon.results.scu import store

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Breaker:
    """A destination that rests: failures in a row, until when, and why."""

    failures: int
    until: float
    why: str

    @property
    def words(self) -> str:
        """What those wait for that were not tried themselves."""
        times = "a failure" if self.failures == 1 else f"{self.failures} failures in a row"
        return f"it rests after {times}, the last: {self.why}"


class Delivery:
    """Send what is due.

    One delivery at a time goes to a destination. When one fails, the destination rests, for longer
    with every failure in a row, so that a dead PACS is not called once for every result.

    Parameters
    ----------
    sender : Sender, optional
        Where it is sent from; threads of its own where absent.
    """

    def __init__(self, settings: Settings, table: Table, sender: Sender | None = None) -> None:
        self._settings = settings
        self._table = table
        self._prover = Prover(table)
        self._destinations = {d.name: d for d in settings.destination}
        self._sender = sender or ThreadSender(self._send)
        self._sending: dict[str, tuple[Future[str], Row]] = {}
        self._breakers: dict[str, _Breaker] = {}
        self._jitter = random.Random()  # noqa: S311 - it spreads retries and keeps no secret

    def tick(self) -> None:
        """Record what was sent, and send what is due."""
        for name in [n for n, (future, _) in self._sending.items() if future.done()]:
            future, delivery = self._sending[name]
            with suppress(StaleTransition):  # Its job was run again meanwhile, and it is sent anew.
                self._record(delivery, future)
            del self._sending[name]  # Not before: what cannot be recorded now is tried again.
        for delivery in deliveries.due(self._table):
            name = delivery["destination"]
            if name in self._sending or not self._sender.room:
                continue
            breaker = self._breakers.get(name)
            if breaker is not None and self._table.clock() < breaker.until:
                deliveries.rest(self._table, name, breaker.until, breaker.words)
                continue
            with suppress(StaleTransition):  # A person has cancelled it meanwhile.
                deliveries.claim(self._table, delivery)
                self._sending[name] = (self._sender.send(delivery), delivery)
        for job in lines.all_delivered(self._table):
            with suppress(StaleTransition):
                self._end(job)

    def bring_forward(self) -> int:
        """Shorten every wait that a clock which was set back has made too long."""
        self._breakers.clear()
        longest_s = self._settings.delivery.retry_max_s * (1 + JITTER)
        return deliveries.bring_forward(self._table, longest_s)

    @property
    def finished(self) -> bool:
        """Whether something was sent, or could not be, and is not yet on record."""
        return any(future.done() for future, _ in self._sending.values())

    def next_due(self) -> float | None:
        """Return when the next delivery may be tried, in seconds since 1970."""
        if not self._sender.room:
            return None  # The end of what is being sent is waited for, not a time.
        return deliveries.next_due(self._table, self._sending)

    def close(self) -> None:
        """Stop; what is being sent now is taken back at the next start."""
        self._sender.close()

    def _send(self, delivery: Row) -> str:
        destination = self._destinations.get(delivery["destination"])
        if destination is None:
            raise DeliveryRefusedError(
                f"no [[destination]] is named {delivery['destination']!r} any more"
            )
        path: Path = self._table.data_dir / delivery["path"]
        peer = peer_of(destination, self._settings.scp.ae_title)
        known = self._prover.known(destination, delivery)
        if known is not None:
            return known
        store(peer, [path])
        return self._prover.prove(destination, peer, path)

    def _record(self, delivery: Row, future: Future[str]) -> None:
        table, name = self._table, delivery["destination"]
        error = future.exception()
        if error is None:
            self._breakers.pop(name, None)
            deliveries.deliver(table, delivery, future.result())
            log.info("delivered", destination=name, sop_instance_uid=delivery["sop_instance_uid"])
            return
        reason = error.message if isinstance(error, OsteonError) else repr(error)
        log.warning("not delivered", destination=name, why=reason)
        limits, now = self._settings.delivery, table.clock()
        if isinstance(error, OsteonError) and not error.retryable:
            self._breakers.pop(name, None)  # It is there, and may well take others.
            deliveries.refuse(table, delivery, reason)
        elif now - delivery["created"] > limits.give_up_s:
            deliveries.give_up(table, delivery, f"given up: {reason}")
        else:
            earlier = self._breakers.get(name)
            failures = 1 if earlier is None else earlier.failures + 1
            until = now + self._backoff_s(failures)
            breaker = self._breakers[name] = _Breaker(failures, until, reason)
            own = now + self._backoff_s(delivery["attempts"] + 1)
            deliveries.retry(table, delivery, max(until, own), reason)
            deliveries.rest(table, name, until, breaker.words)

    def _backoff_s(self, failures: int) -> float:
        limits = self._settings.delivery
        return backoff_s(
            failures, first_s=limits.retry_first_s, max_s=limits.retry_max_s, jitter=self._jitter
        )

    def _end(self, job: Row) -> None:
        every = deliveries.of_job(self._table, job["id"])
        found = [d for d in every if not d["earlier"]]
        missed = [d for d in found if d["state"] != "delivered"]
        if missed:
            reasons = "; ".join(f"{d['destination']}: {d['reason']}" for d in missed)
            jobs.fail(self._table, job, f"not delivered to {reasons}")
        else:
            names = ", ".join(d["destination"] for d in found)
            is_shadow = job["shadow_of"] is not None
            kept = "it is a shadow" if is_shadow else "its route has no destination"
            why = f"delivered to {names}" if found else f"kept here: {kept}"
            # What an earlier run has delivered stays there, and is no doing of this one.
            before = ", ".join(d["destination"] for d in every if d["earlier"])
            jobs.complete(self._table, job, f"{why}; before: to {before}" if before else why)


def peer_of(destination: DestinationSettings, calling_ae_title: str) -> Destination:
    """Return a configured destination as the SCU calls it.

    Parameters
    ----------
    calling_ae_title : str
        How this node calls itself where the destination does not say otherwise.
    """
    return Destination(
        destination.ae_title,
        destination.host,
        destination.port,
        destination.calling_ae_title or calling_ae_title,
        destination.tls,
    )
