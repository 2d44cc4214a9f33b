"""Finds out what the state API tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pyray import api, history, identity, placement, session
from pyray._core import census, spilling
from pyray._core import store as core_store
from pyray.util.state.common import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StoreState,
    TaskState,
    WorkerState,
)

_DRIVER, _NODE = 0, 1  # slots
_CALL_SITE = "disabled"


def _call(what: str) -> Any:
    return session.require().call("state", what)


def _milliseconds(ns: int) -> int | None:
    return ns // 1_000_000 or None


def _amounts(request: dict[str, float]) -> dict[str, float]:
    return {name: float(n) for name, n in request.items() if n}


def tasks(only: str | None = None) -> Iterator[TaskState]:
    """Attempts at tasks: those that have not ended first, then the others, latest first.

    Of one task `only`, if its id is given.
    """
    names = history.Names()
    shapes = _call("shapes") or {}
    groups = _call("groups of shapes") or {}
    job, node = identity.job_id(), identity.node_id()
    for a in history.attempts():
        if only is not None and a.id.hex() != only:
            continue
        name = names.of(a)
        resources = None
        if a.shape is not None and a.kind != history.METHOD:
            resources = {"CPU": 1.0} if a.shape == 0 else _amounts(shapes.get(a.shape, {}))
        yield TaskState(
            task_id=a.id.hex(),
            attempt_number=a.number,
            name=name,
            state=a.state,
            job_id=job,
            actor_id=names.actor_id(a.actor),
            type=a.kind,
            func_or_class_name=name,
            parent_task_id=a.parent.hex(),
            node_id=node if a.pid else None,
            worker_id=identity.worker_id(a.slot, a.pid) if a.pid else None,
            worker_pid=a.pid or None,
            error_type=a.error,
            required_resources=resources,
            placement_group_id=groups.get(a.shape),
            start_time_ms=_milliseconds(a.start),
            end_time_ms=_milliseconds(a.end),
        )


def actors() -> Iterator[ActorState]:
    """Actors, dead ones that are remembered included."""
    space = session.require().config["namespace"] or ""
    for a in _call("actors"):
        request = _amounts(a["request"])
        if not a["keeps_cpus"]:
            request.pop("CPU", None)
        yield ActorState(
            actor_id=a["id"],
            class_name=a["class_name"],
            state=a["state"],
            job_id=identity.job_id(),
            name=a["name"],
            node_id=identity.node_id() if a["pid"] else None,
            pid=a["pid"],
            ray_namespace=space if a["namespace"] is None else a["namespace"],
            required_resources=request,
            death_cause={"error_message": a["why"]} if a["why"] else None,
            is_detached=a["detached"],
            placement_group_id=a["group"],
            num_restarts=a["restarts"],
        )


def groups() -> Iterator[PlacementGroupState]:
    """Placement groups, removed ones that are remembered included."""
    node = identity.node_id()
    for told in placement.told_of_groups():
        table = placement.table_of(told)
        id, created = told["id"], told["state"] == "CREATED"
        yield PlacementGroupState(
            placement_group_id=id,
            name=table["name"],
            creator_job_id=identity.job_id(),
            state=table["state"],
            bundles=[
                {
                    "bundle_id": {"placement_group_id": id, "bundle_index": i},
                    "node_id": node if created else "",
                    "unit_resources": _amounts(bundle),
                }
                for i, bundle in table["bundles"].items()
            ],
            is_detached=told["detached"],
            stats=table["stats"],
        )


_STATUS = {
    census.WAITING: "PENDING_ARGS_AVAIL",
    census.READY: "PENDING_NODE_ASSIGNMENT",
    census.AT_NODE: "PENDING_NODE_ASSIGNMENT",
    census.CLAIMED: "SUBMITTED_TO_WORKER",
    census.RUNNING: "RUNNING",
}


def objects() -> Iterator[ObjectState]:
    """Objects, a record for each process that holds one."""
    session.require()
    chunks = census.chunks()
    arguments: set[tuple[int, int]] = set()
    captured: set[tuple[int, int]] = set()
    for chunk in range(1, chunks):
        (arguments if census.has_tasks(chunk) else captured).update(census.used_in(chunk))
    hidden = census.definitions()
    pids: dict[int, int] = {}
    for chunk in range(1, chunks):
        for found in census.objects_in(chunk):
            handle, number, there, flags, size, owner, holders, task, spilled = found
            if handle in hidden:
                continue
            status, again = task or (0, 0)
            # One whose id has never left its process is in no list of holders.
            for slot in holders or [owner]:
                if slot not in pids:
                    pids[slot] = census.process(slot)[0]
                kind = "LOCAL_REFERENCE"
                if flags & census.ACTOR:
                    kind = "ACTOR_HANDLE"
                elif (handle, slot) in arguments:
                    kind = "USED_BY_PENDING_TASK"
                elif (handle, slot) in captured:
                    kind = "CAPTURED_IN_OBJECT"
                yield ObjectState(
                    object_id=number.hex(),
                    object_size=size,
                    task_status="FINISHED" if there else _STATUS.get(status, "NIL"),
                    attempt_number=again,
                    reference_type=kind,
                    call_site=_CALL_SITE,
                    type="DRIVER" if slot == _DRIVER else "WORKER",
                    pid=pids[slot],
                    ip=identity.ADDRESS,
                    state="SEALED" if there else "CREATED",
                    owner_pid=census.process(owner)[0],
                    spilled=spilled,
                )


def store() -> StoreState:
    """The object store's figures."""
    session.require()
    stats, disk = core_store.object_stats(), spilling.spill_stats()
    assert disk is not None
    return StoreState(
        memory_total=stats["total"],
        memory_used=stats["used"],
        spill_directory=disk["directory"] if disk["total"] else None,
        spill_total=disk["total"],
        spill_used=disk["used"],
        spilled_objects=disk["spilled_objects"],
        spilled_bytes=disk["spilled_bytes"],
        direct_bytes=disk["direct_bytes"],
    )


def workers() -> Iterator[WorkerState]:
    """The driver and the workers, those that have ended included."""
    told = _call("workers")
    node, driver = identity.node_id(), census.process(_DRIVER)[0]
    yield WorkerState(
        worker_id=identity.worker_id(_DRIVER, driver),
        is_alive=True,
        worker_type="DRIVER",
        exit_type=None,
        node_id=node,
        ip=identity.ADDRESS,
        pid=driver,
    )
    for w in reversed(told):
        over = "ended" in w
        sort = "INTENDED_SYSTEM_EXIT" if over and w["code"] == 0 else "SYSTEM_ERROR"
        started = int(w["started"] * 1000)
        yield WorkerState(
            worker_id=identity.worker_id(w["slot"], w["pid"]),
            is_alive=not over,
            worker_type="WORKER",
            exit_type=sort if over else None,
            node_id=node,
            ip=identity.ADDRESS,
            pid=w["pid"],
            exit_detail=f"this worker {w['how']}" if over else None,
            worker_launch_time_ms=started,
            start_time_ms=started,
            end_time_ms=int(w["ended"] * 1000) if over else None,
        )


def nodes() -> Iterator[NodeState]:
    """This machine."""
    for node in api.nodes():
        yield NodeState(
            node_id=node["NodeID"],
            node_ip=node["NodeManagerAddress"],
            is_head_node=True,
            state="ALIVE",
            node_name=node["NodeName"],
            resources_total=node["Resources"],
            labels=node["Labels"],
        )


def jobs() -> Iterator[JobState]:
    """The session."""
    session.require()
    driver, node = census.process(_DRIVER)[0], identity.node_id()
    yield JobState(
        job_id=identity.job_id(),
        type="DRIVER",
        status="RUNNING",
        entrypoint=_command(driver),
        driver_info={
            "id": identity.job_id(),
            "node_ip_address": identity.ADDRESS,
            "node_id": node,
            "pid": str(driver),
        },
        driver_node_id=node,
    )


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return " ".join(os.fsdecode(word) for word in f.read().split(b"\0") if word)
    except OSError:
        return ""
