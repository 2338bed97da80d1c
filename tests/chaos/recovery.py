"""How long the work that a fault hit stood still."""

from __future__ import annotations

from tests.chaos.history import History, Record


def recoveries(history: History) -> list[tuple[float, Record]]:
    """For each step that ran under a worker when a fault hit it: seconds to its next start or end.

    With the last fault that hit it meanwhile; longest first.
    """
    worker_of_token: dict[str, str] = {}
    running: dict[str, str] = {}  # step → token
    hit_by: dict[str, Record] = {}  # step → the last fault that it has not got over
    found: list[tuple[float, Record]] = []
    for record in history.records:
        if record["type"] == "fault" and record["act"] == "began":
            for step, token in running.items():
                if worker_of_token.get(token) in record["workers"]:
                    hit_by[step] = record
        if record["type"] != "row" or record["new"] is None:
            continue
        new = record["new"]
        if record["table"] == "attempt":
            worker_of_token[new["lease_token"]] = new["worker"]
        if record["table"] == "step":
            before = record["old"]["status"] if record["old"] else None
            if new["status"] == before:
                continue
            if new["status"] != "pending" and (fault := hit_by.pop(new["id"], None)):
                found.append((record["at"] - fault["at"], fault))
            running.pop(new["id"], None)
            if new["status"] == "running":
                running[new["id"]] = new["lease_token"]
    return sorted(found, key=lambda pair: -pair[0])
