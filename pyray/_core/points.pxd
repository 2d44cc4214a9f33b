# Kill points: see points.h, which says what each is.
from libc.stdint cimport uint32_t
from pyray._core.layout cimport pr_header
from pyray._core.shm cimport Ctx

cdef extern from "points.h" nogil:
    void PR_POINT(Ctx *c, int which)
    void PR_HOT_POINT(Ctx *c, int which)
    const bint PR_HAS_HOT_POINTS
    enum:
        POINT_NONE
        POINT_BLOCK_CLAIMED
        POINT_RUN_HALF_CLAIMED
        POINT_SLAB_CLAIMED
        POINT_PUT_HALF_COPIED
        POINT_PAYLOAD_WRITTEN
        POINT_SEALED
        POINT_RESULTS_HALF_SEALED
        POINT_RESULTS_SEALED
        POINT_HOLD_SET
        POINT_HOLD_CLEARED
        POINT_FREEING
        POINT_RUN_HALF_FREED
        POINT_BLOCK_FREED
        POINT_RECORD_FREED
        POINT_RECORD_TAKEN
        POINT_TASK_TAKEN
        POINT_CHUNK_CLAIMED
        POINT_CHUNK_ADOPTED
        POINT_SUBMITTED
        POINT_ENTRY_WRITTEN
        POINT_TAIL_MOVED
        POINT_SEGMENT_SWITCHED
        POINT_ABOUT_TO_CLAIM
        POINT_CLAIMED
        POINT_RUNNING
        POINT_ENDING
        POINT_AWAITED
        POINT_LIST_TAKEN
        POINT_MADE_READY
        POINT_EVENT_HALF_WRITTEN
        POINT_TOKEN_TAKEN
        POINT_TOKEN_HANDED_ON
        POINT_TOKEN_FREED
        POINT_RESUMING_CHOSEN
        POINT_NODE_CHOSEN
        POINT_IDLE_CHOSEN
        POINT_SPAWN_ASKED
        POINT_CALL_ENTERED
        POINT_MAILBOX_OPENED
        POINT_CELL_ANNOUNCED
        POINT_CELL_SEALED
        POINT_ARRAY_OPENED
        POINT_ARRAY_SEALED
        POINT_DEFINITION_RESERVED
        POINT_DEFINITION_HELD
        POINT_NESTED_TAKEN
        POINT_COUNT
