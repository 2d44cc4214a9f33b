"""What there is in the session at this moment: tasks, actors, objects, workers.

Ray's state API, in the same process: no service is asked, shared memory is read. From the driver,
tasks and actors alike. A list is not of one instant: things go on while it is made.
"""

from pyray.util.state.api import (
    get_actor,
    get_job,
    get_node,
    get_object,
    get_objects,
    get_placement_group,
    get_store,
    get_task,
    get_worker,
    list_actors,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)

__all__ = [
    "get_actor",
    "get_job",
    "get_node",
    "get_object",
    "get_objects",
    "get_placement_group",
    "get_store",
    "get_task",
    "get_worker",
    "list_actors",
    "list_jobs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]
