# The shared-memory layout and its atomics as Cython sees them; layout.h is the contract.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t at_load64(const uint64_t *p)
    uint64_t at_load_relaxed64(const uint64_t *p)
    void at_store64(uint64_t *p, uint64_t v)
    void at_store_relaxed64(uint64_t *p, uint64_t v)
    void at_store_release64(uint64_t *p, uint64_t v)
    uint64_t at_xchg64(uint64_t *p, uint64_t v)
    uint64_t at_add64(uint64_t *p, uint64_t v)
    uint64_t at_or64(uint64_t *p, uint64_t v)
    uint64_t at_and64(uint64_t *p, uint64_t v)
    bint at_cas64(uint64_t *p, uint64_t expected, uint64_t desired)
    uint32_t at_load32(const uint32_t *p)
    uint32_t at_load_relaxed32(const uint32_t *p)
    void at_store32(uint32_t *p, uint32_t v)
    void at_store_relaxed32(uint32_t *p, uint32_t v)
    void at_store_release32(uint32_t *p, uint32_t v)
    uint32_t at_xchg32(uint32_t *p, uint32_t v)
    uint32_t at_add32(uint32_t *p, uint32_t v)
    uint32_t at_or32(uint32_t *p, uint32_t v)
    uint32_t at_and32(uint32_t *p, uint32_t v)
    bint at_cas32(uint32_t *p, uint32_t expected, uint32_t desired)
    uint16_t at_load16(const uint16_t *p)
    uint16_t at_load_relaxed16(const uint16_t *p)
    void at_store16(uint16_t *p, uint16_t v)
    void at_store_relaxed16(uint16_t *p, uint16_t v)
    void at_store_release16(uint16_t *p, uint16_t v)
    uint16_t at_xchg16(uint16_t *p, uint16_t v)
    uint16_t at_add16(uint16_t *p, uint16_t v)
    uint16_t at_or16(uint16_t *p, uint16_t v)
    uint16_t at_and16(uint16_t *p, uint16_t v)
    bint at_cas16(uint16_t *p, uint16_t expected, uint16_t desired)
    uint8_t at_load8(const uint8_t *p)
    uint8_t at_load_relaxed8(const uint8_t *p)
    void at_store8(uint8_t *p, uint8_t v)
    void at_store_relaxed8(uint8_t *p, uint8_t v)
    void at_store_release8(uint8_t *p, uint8_t v)
    uint8_t at_xchg8(uint8_t *p, uint8_t v)
    uint8_t at_add8(uint8_t *p, uint8_t v)
    uint8_t at_or8(uint8_t *p, uint8_t v)
    uint8_t at_and8(uint8_t *p, uint8_t v)
    bint at_cas8(uint8_t *p, uint8_t expected, uint8_t desired)
    void at_fence()
    void cpu_pause()
    uint32_t cpu_here()
    void cpu_yield()
    int64_t now_ns()
    int futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns)
    void futex_wake(uint32_t *word, int n)

cdef extern from "layout.h" nogil:
    const uint64_t PR_MAGIC
    const uint64_t PR_LAYOUT_HASH
    const uint64_t PR_GEN_MASK
    const uint64_t PR_VERSION_ONE
    uint64_t PR_BY(uint32_t p)
    const uint64_t PR_KEEP_ATTEMPT
    const uint64_t PR_LESS_ATTEMPT
    const uint64_t OBJ_ERROR
    const uint64_t OBJ_DROPPED
    const uint64_t OBJ_INLINE
    const uint64_t OBJ_COMPACT
    const uint64_t OBJ_NESTED
    const uint64_t OBJ_ACKED
    const uint64_t OBJ_ACTOR
    const uint64_t OBJ_CELL
    const uint64_t PR_CELLS
    const uint64_t PR_PLACE
    const uint64_t PR_MOVING
    const uint32_t PR_WAITER_MULTI
    const uint32_t PR_NOWHERE
    enum:
        PR_LAYOUT_VERSION
        PR_MAX_PROCS
        PR_MAX_TOKENS
        PR_WAITERS
        PR_BRIDGE
        PR_DONE
        PR_LANES
        PR_SEGMENTS
        PR_SEGMENT_ENTRIES
        PR_GRANULE
        PR_CHUNK_BYTES
        PR_CHUNK_GRANULES
        PR_UNIT
        PR_INLINE_OBJECT
        PR_INLINE_ARGS
        PR_INLINE_DEPS
        PR_MAX_FUNCS
        PR_MAX_ACTORS
        PR_CALLS
        PR_EVENTS
        PR_NAME_AT
        PR_GEN_SHIFT
        PR_MAX_DEPS
        PR_STOP
        PR_STOP_CHILDREN
        PR_STOP_COUNT
        PR_STOP_COUNTS
        PR_STOP_GEN
        PR_MOVER_SHIFT
        PR_LARGE_MIN
        OBJ_FREE
        OBJ_CREATED
        OBJ_SEALED
        OBJ_FREEING
        OBJ_OPEN
        OBJ_EMPTY
        OBJ_RELEASING
        TASK_FREE
        TASK_WAITING
        TASK_READY
        TASK_CLAIMED
        TASK_RUNNING
        TASK_DONE
        TASK_NODE
        TASK_NEW
        TASK_ENDING
        PROC_FREE
        PROC_STARTING
        PROC_ALIVE
        PROC_DEAD
        KIND_NONE
        KIND_OBJECTS
        KIND_TASKS
        KIND_SEGMENT
        SHAPED_NONE
        SHAPED_RUNS
        SHAPED_BLOCKED
        SHAPED_WANTS
        SHAPED_ACTOR
        ROLE_DRIVER
        ROLE_NODE
        ROLE_WORKER
        ROLE_DEDICATED
        ASSIGNED_RETIRE
        ASSIGNED_OPEN
        ACTOR_FREE
        ACTOR_PENDING
        ACTOR_ALIVE
        ACTOR_DEAD
        ACTOR_SETTLED
        LEAVE_NO
        LEAVE_INTENDED
        LEAVE_UNMADE
        UNIT_FREE
        UNIT_LARGE
        UNIT_SLAB
        TASK_F_HELD
        TASK_F_KWARGS
        TASK_F_ARGS_OBJECT
        TASK_F_RETRY_EXC
        TASK_F_CREATES
        TASK_F_STREAM
        TASK_F_DYNAMIC
        TASK_F_WRITABLE
        EVENT_FAILED
        EVENT_DIED
        EVENT_CANCELLED
        EVENT_CREATES
        EVENT_NEVER
    uint64_t PR_BY(uint32_t p)
    uint64_t PR_LINK(uint32_t slot, uint32_t gen, uint32_t index)
    ctypedef struct pr_header:
        uint64_t magic, layout_hash
        uint64_t nonce
        uint64_t total_bytes
        uint64_t off_procs, off_funcs, off_actors, off_mailboxes, off_events, off_chunks
        uint64_t off_records
        uint64_t off_names, off_units, off_slabs, off_runs, off_payload
        uint64_t n_units, n_chunks
        uint64_t n_spill_units
        uint32_t num_tokens
        uint32_t actors_high
        uint8_t root_id[20]
        uint32_t chunks_used
        uint32_t funcs_used
        uint32_t actors_dropped
        uint32_t procs_high
        uint32_t point
        uint32_t point_roles
        uint32_t point_left
        uint32_t point_signal
        uint32_t point_pid
        uint64_t freed_low
        uint64_t spill_low
        uint64_t spill_high
        uint64_t spilled_objects, spilled_bytes
        uint64_t direct_bytes
        uint64_t spill_told
    ctypedef struct pr_dispatch:
        uint32_t searcher
        uint32_t stopping
        uint32_t lent
        uint32_t watched
        uint32_t node_wants
        uint32_t spawn_wanted
        uint32_t sweep
        uint32_t audit
        uint32_t filler
        uint64_t resume[4]
        uint64_t idle[4]
        uint8_t hint[PR_MAX_PROCS]
        uint32_t token[PR_MAX_TOKENS]
    ctypedef struct pr_waiter:
        uint32_t events
        uint32_t target
        uint32_t parked
        uint32_t active
        uint64_t pad[6]
    ctypedef struct pr_lane:
        uint64_t tail
        int32_t depth
        uint64_t head
        uint32_t segment[PR_SEGMENTS]
    ctypedef struct pr_proc:
        uint32_t status
        int32_t pid
        uint32_t role
        uint32_t cpu
        uint64_t counter
        uint32_t wake
        uint32_t parked
        uint64_t assigned
        uint64_t current
        uint64_t started_ns
        uint64_t moving
        uint32_t blocked
        uint32_t shaped
        uint32_t token
        uint32_t depth
        uint32_t refused
        uint32_t parked_on
        uint64_t told
        uint64_t pinning
        uint32_t audit_number
        uint32_t audit_wrong
        uint32_t audit_what
        uint32_t audit_private
        uint32_t audit_segments
        uint64_t audit_where
        char gpus[128]
        uint64_t spill_from
        uint64_t spill_units
        uint64_t spill_object
        uint64_t spill_to
        pr_waiter waiter[PR_WAITERS]
        pr_lane lane[PR_LANES]
        uint32_t done_tail
        uint64_t done[PR_DONE]
    ctypedef struct pr_chunk:
        uint32_t kind
        uint32_t owner
        uint64_t free_bits[8]
        uint64_t pad[7]
    ctypedef struct pr_object:
        uint64_t state
        uint64_t holders[4]
        uint64_t dependents
        uint32_t waiter
        uint16_t owner
        uint16_t liable
        uint64_t task
        uint64_t off
        uint64_t size
        uint8_t data[PR_INLINE_OBJECT]
    ctypedef struct pr_body:
        uint64_t start
        uint64_t nbytes
    ctypedef struct pr_cell:
        uint32_t index
        uint8_t parent[20]
        uint64_t counter
        uint64_t value
        uint64_t next
    ctypedef struct pr_dep:
        uint64_t object
        uint64_t next
        uint32_t position
        uint32_t ready
    ctypedef struct pr_task:
        uint64_t state
        uint64_t ret0
        uint64_t ext
        uint64_t args_object
        uint64_t counter
        uint64_t actor
        uint64_t cell
        uint32_t func
        uint32_t ext_size
        uint32_t produced
        uint16_t shape
        uint16_t depth
        uint16_t submitter
        uint16_t nreturns
        uint16_t ndeps
        uint16_t flags
        int16_t max_retries
        uint16_t args_len
        uint16_t group
        uint16_t stop
        uint8_t parent_id[20]
        uint32_t window
        pr_dep dep[PR_INLINE_DEPS]
        uint8_t args[PR_INLINE_ARGS]
    ctypedef struct pr_func:
        uint64_t object
    ctypedef struct pr_actor:
        uint64_t state
        uint64_t ref
        uint64_t creation
        uint64_t death
        uint32_t proc
        uint32_t released
        uint32_t leaving
        uint32_t restarts
        uint32_t max_pending
        uint64_t waiting[4]
        uint64_t callers[4]
    ctypedef struct pr_mailbox:
        uint64_t tail
        uint64_t first
        uint64_t actor
        uint64_t head
    ctypedef struct pr_event:
        uint64_t start_ns
        uint64_t end_ns
        uint64_t counter
        uint64_t actor
        uint32_t func
        uint32_t pid
        uint16_t attempt
        uint8_t flags
        uint8_t proc
        uint8_t parent_id[20]
    ctypedef struct pr_events:
        uint64_t written
        pr_event event[PR_EVENTS]
    ctypedef struct pr_name:
        uint64_t counter
        uint32_t index
        uint8_t parent_id[20]
    ctypedef struct pr_run:
        uint64_t pins[4]
        uint64_t object
        uint64_t stamp
        uint32_t spiller
    ctypedef struct pr_slab:
        uint64_t bits[4]
        uint32_t block
        uint32_t owner
        uint64_t orphan
        uint64_t takes
