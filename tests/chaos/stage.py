"""One chaos run of one deployment: the reference, the storm, the calm, the history."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from services.cli.client import HoldfastClient
from shared.database import reading
from shared.tables import Audit
from tests.chaos import history as histories
from tests.chaos import recorder
from tests.chaos.asks import Ask, body, plan_asks
from tests.chaos.deployment import TOKENS, WORKERS, Deployment, running_deployment, servers_of
from tests.chaos.digests import digests
from tests.chaos.faults import Scene
from tests.chaos.history import History, Record
from tests.chaos.nemesis import Nemesis, plan_faults
from tests.chaos.submitters import ACCEPTED, Log, Submitters

LOOK_SECONDS = 0.1
TELL_SECONDS = 5.0
CALM_SECONDS = 400.0  # after the last fault was healed, for every audit to end
CANCEL_SECONDS = 10.0
FORCED_CANCEL_SECONDS = 30.0


def record_run(kind: str, seconds: float, seed: int, directory: Path, reference: list[Record]) -> History:
    """Run a deployment under faults for `seconds`, wait until all has ended; what was recorded."""
    asks = plan_asks(seeded("asks", seed), seconds)
    log = Log()
    with servers_of(kind) as servers, running_deployment(kind, directory, servers, WORKERS) as deployment:
        storm(deployment, log, asks, seconds, seed)
        for worker in deployment.workers:
            worker.stop()
        deployment.gateway.stop()
        header: Record = {
            "type": "header",
            "at": 0.0,
            "deployment": kind,
            "seed": seed,
            "max_step_attempts": deployment.settings.max_step_attempts,
            "cancel_seconds": CANCEL_SECONDS,
            "forced_cancel_seconds": FORCED_CANCEL_SECONDS,
        }
        rows = list(recorder.recorded(deployment.engine))
        now = time.time()
        results = [{**one, "at": now} for one in digests(deployment.engine, "result", _asked(log))]
    return histories.merged(header, reference, rows, log.records, results)


def reference_results(kind: str, seconds: float, seed: int, directory: Path) -> list[Record]:
    """What the requests of a run give when nothing goes wrong, in a deployment of their own.

    No number may depend on the deployment: the reference of one serves for all.
    """
    with (
        servers_of(kind) as servers,
        running_deployment(kind, directory, servers, WORKERS) as deployment,
        HoldfastClient(deployment.url, next(iter(TOKENS.values()))) as client,
    ):
        names = sorted({ask.request for ask in plan_asks(seeded("asks", seed), seconds)})
        requests = {client.submit(body(name)).id: name for name in names}
        for audit in requests:
            view = list(client.follow(audit))[-1]
            if view.status != "succeeded":
                raise RuntimeError(f"the reference of {requests[audit]} is {view.status}: {view.error}")
            tell(f"reference {requests[audit]}")
        return [{**one, "at": 0.0} for one in digests(deployment.engine, "reference", requests)]


def seeded(what: str, seed: int) -> random.Random:
    """Dice that fall the same way for the same seed."""
    return random.Random(f"{what} {seed}")  # noqa: S311 (no secret is made)


def storm(deployment: Deployment, log: Log, asks: list[Ask], seconds: float, seed: int) -> None:
    """Submit and strike for `seconds`; then heal everything and wait until every audit has ended.

    A fault that still waits for something to hit is waited for.
    """
    scene = Scene(deployment, log)
    nemesis = Nemesis(scene, plan_faults(seeded("faults", seed), seconds))
    began = time.monotonic()
    submitters = Submitters(deployment.url, log, until=began + seconds)
    waiting = list(asks)
    told = 0.0
    while (now := time.monotonic() - began) < seconds or nemesis.plan:
        while waiting and waiting[0].at <= now:
            submitters.send(waiting.pop(0))
        nemesis.act(now)
        deployment.keep()
        if now - told > TELL_SECONDS:
            told = now
            tell(f"{deployment.kind} {now:4.0f} s: {_standing(deployment)}, {_faults(log)} faults")
        time.sleep(LOOK_SECONDS)
    nemesis.heal_all()
    calm(deployment, submitters)


def calm(deployment: Deployment, submitters: Submitters) -> None:
    """Wait until everything that was asked has been accepted and has ended, or for `CALM_SECONDS`."""
    began = time.monotonic()
    told = 0.0
    while (now := time.monotonic() - began) < CALM_SECONDS:
        deployment.keep()
        if submitters.are_done() and not _has_open_audits(deployment):
            break
        if now - told > TELL_SECONDS:
            told = now
            tell(f"{deployment.kind} calm for {now:3.0f} s: {_standing(deployment)}")
        time.sleep(LOOK_SECONDS)
    submitters.finish()


def tell(what: str) -> None:
    """Say how far the run is."""
    sys.stderr.write(f"{what}\n")


def _has_open_audits(deployment: Deployment) -> bool:
    with reading(deployment.engine) as session:
        query = select(col(Audit.id)).where(col(Audit.finished_at).is_(None)).limit(1)
        return session.execute(query).first() is not None


def _standing(deployment: Deployment) -> str:
    try:
        with reading(deployment.engine) as session:
            query = select(col(Audit.status), func.count()).group_by(col(Audit.status))
            counts = Counter({str(status): count for status, count in session.execute(query)})
    except DBAPIError:
        return "the database is away"
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no audit"


def _faults(log: Log) -> int:
    return sum(record["type"] == "fault" and record["act"] == "began" for record in log.records)


def _asked(log: Log) -> dict[str, str]:
    """What was asked for, by audit."""
    return {record["audit"]: record["request"] for record in log.records if record.get("act") in ACCEPTED}
