/* The layout of a session's shared memory: one memfd, mapped by the driver, the node and every
 * worker.  This header is the contract; every field says who writes it.
 *
 *   header | dispatch | process table | function table | actors | mailboxes | events | chunk table |
 *   records | names | unit table | slab table | run table | payload arena || spill file
 *
 * The spill file is a file on disk, mapped right behind the arena: the arena's units go on there.
 *
 * Rules that hold everywhere:
 *   - offsets and slot numbers, never pointers: each process maps the file where it likes;
 *   - a *handle* is (generation << 32 | slot): a stale one is recognised, never followed;
 *   - no locks: a structure has one writing process, or a word is changed by compare-and-swap and
 *     says itself who did it, so that whoever clears up after a death needs no other witness;
 *   - whatever is only a hint says so, and may be wrong.
 */
#ifndef PYRAY_LAYOUT_H
#define PYRAY_LAYOUT_H

#include <stdint.h>

#define PR_MAGIC 0x3159415259504UL /* "PYRAY1" */
#define PR_LAYOUT_VERSION 8

#define PR_MAX_PROCS 256      /* driver + node + workers; holders is a bit per process */
#define PR_MAX_TOKENS 256     /* CPUs */
#define PR_WAITERS 9          /* per process: eight threads that wait, and the bridge */
#define PR_BRIDGE 8           /* the waiter of the thread that resolves futures */
#define PR_DONE 4096          /* sealed objects that a bridge can be told of before it looks */
#define PR_LANES 8            /* ready queues per process, one per depth in use */
#define PR_SEGMENTS 1024      /* segments a lane can have: 8 million queued tasks */
#define PR_SEGMENT_ENTRIES 8192
#define PR_GRANULE 128        /* records are addressed in granules */
#define PR_CHUNK_BYTES 65536  /* unit in which record space is given to a process */
#define PR_CHUNK_GRANULES 512
#define PR_UNIT 16384         /* unit in which payload space is claimed */
#define PR_INLINE_OBJECT 48   /* bytes of a value that fit in its record */
#define PR_INLINE_ARGS 72     /* bytes of arguments that fit in the task's record */
#define PR_INLINE_DEPS 3
#define PR_MAX_FUNCS 1048576
#define PR_MAX_ACTORS 8192    /* entries for actors, dead ones that are remembered included */
#define PR_CALLS 8191         /* calls in a segment of a mailbox; before them, the next segment */
#define PR_EVENTS 16384       /* ends of tasks that a process remembers; a power of two */

/* ---- state words -------------------------------------------------------------------------
 * object: status 0..7 | flags 8..15 | generation 16..47 | version 48..63
 * task:   status 0..7 | attempt, low 8..15 | generation 16..47 | claimer 48..55 |
 *         attempt, high 56..63
 * The object's version counts additions to `holders`, so that "no holder is left" can be decided
 * by a compare-and-swap although the holders span four words.  It is 0 until the first one and never
 * again: an object with a version and without holders is nobody's.
 * Where the version, or the claimer, has no meaning the upper 16 bits name who did it (process + 1):
 * an object that is FREEING or EMPTY, and any record that is FREE.  So it can be told what a dead
 * process was about to do. */
#define PR_GEN_SHIFT 16
#define PR_GEN_MASK (0xFFFFFFFFULL << PR_GEN_SHIFT)
#define PR_VERSION_ONE (1ULL << 48)
#define PR_BY(p) ((uint64_t)((p) + 1) << 48) /* by this process */
#define PR_KEEP_ATTEMPT 0xFF00FFFFFFFFFF00ULL /* a task's state less status and claimer */
#define PR_LESS_ATTEMPT 0x00FFFFFFFFFF00FFULL /* a task's state less its attempt */

/* OPEN: a shared array that is still written to.  It has its payload, and is sealed where it lies. */
enum {
    OBJ_FREE = 0,
    OBJ_CREATED = 1,
    OBJ_SEALED = 2,
    OBJ_FREEING = 3,   /* by the process that the state names; its payload is still there, whole */
    OBJ_OPEN = 4,
    OBJ_EMPTY = 5,     /* taken, or about to be free, by the process that the state names: no payload */
    OBJ_RELEASING = 6, /* the same, and its small block is or is not free yet: `data` tells */
};
#define OBJ_ERROR (1ULL << 8)      /* the value is an exception to raise */
#define OBJ_DROPPED (1ULL << 9)    /* nobody holds it: whoever seals it frees it */
#define OBJ_INLINE (1ULL << 10)    /* value in the record, compact form */
#define OBJ_COMPACT (1ULL << 11)   /* value in the arena, compact form */
#define OBJ_NESTED (1ULL << 12)    /* the value contains ids (listed at the end of its payload) */
#define OBJ_ACKED (1ULL << 13)     /* the owner holds the ids inside: the writer may let go */
#define OBJ_ACTOR (1ULL << 14)     /* an actor lives as long as this: whoever frees tells the node */
#define OBJ_CELL (1ULL << 15)      /* its data is a pr_cell, its `off` the cell's credit */

enum {
    TASK_FREE = 0,
    TASK_WAITING = 1,  /* for arguments */
    TASK_READY = 2,    /* in some queue */
    TASK_CLAIMED = 3,  /* by the process in the claimer field; nothing of the user's has run */
    TASK_RUNNING = 4,
    TASK_DONE = 5,     /* returns sealed; a held task stays so until its submitter has let go */
    TASK_NODE = 6,     /* ready, waits at the node for its resources */
    TASK_NEW = 7,      /* being written by its submitter: nothing in it but that is valid yet */
    TASK_ENDING = 8,   /* returns sealed; the process in the claimer field gives `ext` back */
};
#define TASK_F_HELD 2     /* its submitter holds ids on its behalf and frees the record itself */
#define TASK_F_KWARGS 4   /* arguments are (values, names) */
#define TASK_F_ARGS_OBJECT 8 /* arguments lie in the object args_object */
#define TASK_F_RETRY_EXC 16  /* retry_exceptions */
#define TASK_F_CREATES 32    /* makes the actor in `actor`, instead of being a call of it */
#define TASK_F_STREAM 128    /* its returns are the cell to fill next, and the end of the stream */
#define TASK_F_DYNAMIC 256   /* it yields values: its return is the list of their ids */
#define TASK_F_WRITABLE 512  /* arrays among its arguments are private copies, to be written to */

/* What the node writes to have a task stop.  It bears the generation, since the task may have ended,
 * and its record be another's, between the node's look at it and the write.  Each request counts on,
 * so that who has followed one knows a new one. */
#define PR_STOP 0x8000
#define PR_STOP_CHILDREN 0x4000 /* and what it has submitted is to stop too */
#define PR_STOP_COUNT 0x0800    /* added by each request, in 3 bits */
#define PR_STOP_COUNTS 0x3800
#define PR_STOP_GEN 0x07FF

enum { PROC_FREE = 0, PROC_STARTING = 1, PROC_ALIVE = 2, PROC_DEAD = 3 };
enum { KIND_NONE = 0, KIND_OBJECTS = 1, KIND_TASKS = 2, KIND_SEGMENT = 3 };
/* What a process is.  A dedicated worker is an actor's, or has an environment of its own: it runs
 * only what the node gives it, holds no token and never sets its bit among the idle. */
enum { ROLE_DRIVER = 0, ROLE_NODE = 1, ROLE_WORKER = 2, ROLE_DEDICATED = 3 };
/* A task whose resources the node lends.  The process moves on RUNS -> BLOCKED -> WANTS and to NONE
 * at the end, the node NONE -> RUNS (with `assigned`) and WANTS -> RUNS; each rings or wakes.
 * RUNS -> ACTOR: a dedicated worker goes on for good without its CPUs, and keeps all else. */
enum {
    SHAPED_NONE = 0,
    SHAPED_RUNS = 1,
    SHAPED_BLOCKED = 2,
    SHAPED_WANTS = 3,
    SHAPED_ACTOR = 4,
};
/* Values of `assigned` that are no task: end; and of a dedicated worker's, ready for another task
 * (0 is not: it may be about to end). */
enum { ASSIGNED_RETIRE = 1, ASSIGNED_OPEN = 2 };
/* An actor's status; the node changes it. */
enum {
    ACTOR_FREE = 0,
    ACTOR_PENDING = 1,    /* to be made, for the first time or again: calls queue up */
    ACTOR_ALIVE = 2,
    ACTOR_DEAD = 3,       /* calls fail with `death` */
    ACTOR_SETTLED = 4,    /* and those that it had have failed: mailboxes may be let go of */
};
/* Why an actor's process ends on purpose, said by itself before it does. */
enum { LEAVE_NO = 0, LEAVE_INTENDED = 1, LEAVE_UNMADE = 2 /* its constructor raised */ };
enum { UNIT_FREE = 0, UNIT_LARGE = 1, UNIT_SLAB = 2 };

/* ---- an object's place -------------------------------------------------------------------
 * place 0..47 | process that is about to move it 48..55 | PR_MOVING
 * `off` of a sealed object in a large block changes once at most: from memory to the spill file.
 * The mover puts its mark there, looks that nobody has pinned the block, and swaps the new place in;
 * whoever else meets the mark takes it away, and the mover has lost. So nobody waits for a mover. */
#define PR_PLACE 0x0000FFFFFFFFFFFFULL
#define PR_MOVER_SHIFT 48
#define PR_MOVING (1ULL << 63)
#define PR_LARGE_MIN 8193     /* bytes from which a block is a run of units, and can move */

typedef struct {
    uint64_t magic, layout_hash;
    uint64_t nonce;            /* random root of the session; also in every pickled id */
    uint64_t total_bytes;
    uint64_t off_procs, off_funcs, off_actors, off_mailboxes, off_events, off_chunks, off_records;
    uint64_t off_names, off_units, off_slabs, off_runs, off_payload;
    uint64_t n_units, n_chunks; /* units in memory; those of the spill file have the next numbers */
    uint64_t n_spill_units;    /* 0: nothing spills */
    uint32_t num_tokens;       /* CPUs */
    uint32_t actors_high;      /* node: highest entry for an actor that was ever used + 1 */
    uint8_t root_id[20];       /* id of the driver's root task */
    uint32_t point;            /* the armed kill point, 0: none; see points.h */
    /* counters changed by anybody, each on a line of its own */
    uint32_t chunks_used __attribute__((aligned(64)));  /* bump allocator of chunks: fetch_add */
    uint32_t funcs_used __attribute__((aligned(64)));   /* bump allocator of function ids */
    uint32_t actors_dropped __attribute__((aligned(64))); /* 1: some actor has lost its last handle;
                                                           * set by anybody, taken by the node */
    uint32_t procs_high __attribute__((aligned(64)));   /* node: highest process slot used + 1 */
    /* Which processes the armed point is for, a bit for each ROLE_*; how often it is still to be
     * passed, and what whoever brings that to 0 gets; and who that was last. */
    uint32_t point_roles __attribute__((aligned(64)));
    uint32_t point_left;
    uint32_t point_signal;
    uint32_t point_pid;
    uint64_t freed_low __attribute__((aligned(64)));    /* lowest unit that has been freed and not
                                                         * been claimed since; a hint of any process */
    uint64_t spill_low __attribute__((aligned(64)));     /* a hint: no unit of the spill file before
                                                          * this one is free */
    uint64_t spill_high;       /* units of the file that were ever claimed have smaller numbers */
    /* statistics since the session began: added to by whoever spilled */
    uint64_t spilled_objects, spilled_bytes;
    uint64_t direct_bytes;     /* of blocks that had no room in memory from the start */
    uint64_t spill_told;       /* bytes at which the next line in the log is due */
} pr_header;

/* Words that decide who runs.  Written by compare-and-swap from any process. */
typedef struct {
    uint32_t searcher __attribute__((aligned(64)));   /* process + 1 of the one spinning worker */
    uint32_t stopping;                                /* node: the session ends */
    uint32_t lent;                                    /* node: tokens that actors and placement groups
                                                       * have for as long as they live */
    uint32_t watched;                                 /* 1: the node looks after memory; 0: nothing
                                                       * has run for a while, and who takes up work
                                                       * sets it, and a timer */
    uint32_t node_wants __attribute__((aligned(64))); /* tokens that the node asks for */
    uint32_t spawn_wanted;                            /* ready work, a token, nobody idle */
    uint32_t sweep;                                   /* +1: let go of what you hold for nothing */
    uint32_t audit;                                   /* +1, before `sweep`: say what you hold */
    uint32_t filler;                                  /* process + 1 that has the file's lock, in
                                                       * pwrite; who finds one there maps pages */
    uint64_t resume[4];                               /* unblocked workers that need a token */
    uint64_t idle[4] __attribute__((aligned(64)));    /* parked workers, bit per process */
    uint8_t hint[PR_MAX_PROCS] __attribute__((aligned(64)));
    /* hint[p]: 1 + the depth of p's deepest non-empty lane (at most 255), 0 nothing.  A hint. */
    uint32_t token[PR_MAX_TOKENS] __attribute__((aligned(64)));
    /* token[i]: 0 free, else process + 1 of its holder; the node holds those it lends on */
} pr_dispatch;

typedef struct {
    uint32_t events;   /* +1 by whoever seals an object that names this waiter */
    uint32_t target;   /* owner: wake me when events - target >= 0 (signed) */
    uint32_t parked;   /* futex; owner: 1 inside futex_wait, whoever wakes it: 0 */
    uint32_t active;   /* owner: in use */
    uint64_t pad[6];
} pr_waiter;

typedef struct {
    uint64_t tail __attribute__((aligned(64)));  /* owner: entries pushed ever */
    int32_t depth;                               /* owner: label of what is queued here */
    uint64_t head __attribute__((aligned(64)));  /* consumers (compare-and-swap): a hint */
    uint32_t segment[PR_SEGMENTS] __attribute__((aligned(64))); /* owner: slot of each segment */
} pr_lane;

typedef struct {
    uint32_t status;   /* PROC_*: node, but the process itself says ALIVE */
    int32_t pid;
    uint32_t role;     /* ROLE_*: node */
    uint32_t cpu;      /* process, or who wakes it: 1 + the CPU it was last seen on, or is about to
                        * be on, 0 while parked; a hint */
    uint64_t counter;  /* process: tasks run */
    uint32_t wake __attribute__((aligned(64)));   /* futex of the parked worker: +1 by a waker */
    uint32_t parked;                              /* process */
    uint64_t assigned;                            /* node: a task with resources of its own,
                                                   * or ASSIGNED_*; OPEN is the process's */
    uint64_t current __attribute__((aligned(64))); /* process: the task it claims or runs */
    uint64_t started_ns;                          /* process: when the task started */
    uint64_t moving;                              /* process: task that it is about to queue */
    uint32_t blocked;                             /* process: 1 while its task waits in get/wait */
    uint32_t shaped;                              /* SHAPED_*: where its task stands with the node */
    uint32_t token;                               /* process: index + 1 of its token (a hint) */
    uint32_t depth;                               /* process: depth of the task it runs */
    uint32_t refused;                             /* node: 1 + n at the cap of n processes */
    uint32_t parked_on;                           /* process: 1 + the CPU that it last parked on */
    uint64_t told;                                /* process: the request to stop that has reached
                                                   * its main thread; see interrupts.pyx */
    uint64_t pinning;                             /* process: 1 + the unit that it pinned last */
    /* Process: what it had to say to `audit`, see audit.pyx; the number comes last. */
    uint32_t audit_number __attribute__((aligned(64)));
    uint32_t audit_wrong;                         /* how much of its own is not as it should be */
    uint32_t audit_what;                          /* the first of that: which sort, */
    uint32_t audit_private;                       /* ids of its own that nobody else knows of */
    uint32_t audit_segments;                      /* segments of its lanes and mailboxes */
    uint64_t audit_where;                         /* and the record */
    char gpus[128] __attribute__((aligned(64)));  /* node: ids for the assigned task, "0,1" */
    /* What it is moving to the spill file: for whoever clears up after it (spilling.pyx). */
    uint64_t spill_from __attribute__((aligned(64))); /* process: 1 + first unit in memory */
    uint64_t spill_units;                         /* process: how many */
    uint64_t spill_object;                        /* process: whose; a handle */
    uint64_t spill_to;                            /* process: 1 + first unit in the file, written
                                                   * last, and cleared first */
    pr_waiter waiter[PR_WAITERS] __attribute__((aligned(64)));
    pr_lane lane[PR_LANES];
    /* Handles of sealed objects that name this process's bridge: slot done_tail % PR_DONE, by whoever
     * seals; 0 once the bridge has read it.  Hints: one may be late, stale, or lost to a lap. */
    uint32_t done_tail __attribute__((aligned(64)));
    uint64_t done[PR_DONE] __attribute__((aligned(64)));
} pr_proc;

typedef struct {
    uint32_t kind;
    uint32_t owner;        /* process + 1 whose allocator uses it; 0: up for adoption */
    uint64_t free_bits[8]; /* fetch_or by whoever frees; harvested by the owner */
    uint64_t pad[7];
} pr_chunk;

typedef struct {
    uint64_t state;
    uint64_t holders[4];   /* bit p: process p holds it; set and cleared by p alone */
    uint64_t dependents;   /* stack of dep entries that wait for it: compare-and-swap */
    uint32_t waiter;       /* waiter id + 1; PR_WAITER_MULTI: wake all active ones */
    uint16_t owner;        /* process that created it; the node after that one's death */
    uint16_t liable;       /* process that holds the ids inside until ACKED */
    uint64_t task;         /* handle of the task that makes it, or 0 */
    uint64_t off;          /* payload: see PR_PLACE; written before the seal or OPEN, after which
                            * only a spiller changes it */
    uint64_t size;
    uint8_t data[PR_INLINE_OBJECT];
} pr_object;

/* A shared array's elements, in the data of its object: bytes of the payload.  Its maker's. */
typedef struct {
    uint64_t start;        /* from the payload's first byte */
    uint64_t nbytes;
} pr_body;

/* A link of a stream, in the data of its object; written by the runner.  `index` is there before
 * the runner fills the cell, so that whoever clears up after it knows how far it had come. */
typedef struct {
    uint32_t index;        /* how many cells come before this one */
    uint8_t parent[20];    /* with counter: the task's id, from which value and next have theirs */
    uint64_t counter;
    uint64_t value;        /* handle of the object that was yielded; 0: the stream ends here */
    uint64_t next;         /* handle of the next cell */
} pr_cell;
#define PR_CELLS (1ULL << 63)      /* in the counter of cells' ids: values have those without */

typedef struct {
    uint64_t object;       /* handle */
    uint64_t next;         /* stack link, see PR_LINK */
    uint32_t position;     /* index in values, or PR_NOWHERE: a shared array that the arguments look
                            * into, which is only to be kept alive; it is ready from the start */
    uint32_t ready;        /* 1 once the object is sealed: set any number of times */
} pr_dep;

typedef struct {
    uint64_t state;
    uint64_t ret0;         /* submitter: handle of the first return */
    uint64_t ext;          /* submitter: payload block with more deps and returns, or 0 */
    uint64_t args_object;  /* submitter: handle, with TASK_F_ARGS_OBJECT */
    uint64_t counter;      /* submitter: with parent_id the task's id */
    uint64_t actor;        /* submitter: handle of the actor that it is a call of, or 0 */
    uint64_t cell;         /* runner of a stream: the cell that comes next, while it fills one */
    uint32_t func;         /* number of the definition; of the method in its class, for a call */
    uint32_t ext_size;
    uint32_t produced;     /* runner of a stream: cells filled, by all attempts */
    uint16_t shape;
    uint16_t depth;        /* submitter; raised by whoever awaits it from deeper down */
    uint16_t submitter;
    uint16_t nreturns;
    uint16_t ndeps;
    uint16_t flags;        /* submitter; node: HELD, after the submitter's death */
    int16_t max_retries;
    uint16_t args_len;
    uint16_t group;        /* submitter: the call's concurrency group, 0: the default one; of what is
                            * no actor's call, the upper half of its shape */
    uint16_t stop;         /* node: PR_STOP and more, if the task is cancelled; see stop_of */
    uint8_t parent_id[20];
    uint32_t window;       /* submitter of a stream: cells ahead of the reader, 0: no limit */
    pr_dep dep[PR_INLINE_DEPS];
    uint8_t args[PR_INLINE_ARGS];
} pr_task;

typedef struct {
    uint64_t object;       /* handle of the pickled definition; 0 until it is there */
} pr_func;

/* An actor.  All is the node's to write but `leaving`, `ready` and what is on the second line. */
typedef struct {
    uint64_t state;        /* status 0..7 | generation 16..47 */
    uint64_t ref;          /* the object whose holders keep it alive */
    uint64_t creation;     /* the task that makes it, while it may have to be made again */
    uint64_t death;        /* the error that calls get now, or 0 */
    uint32_t proc;         /* slot of its process, 0: it has none */
    uint32_t released;     /* 1: nobody holds it any more, it ends when it has run all calls */
    uint32_t leaving;      /* its process: LEAVE_* */
    uint32_t restarts;     /* how often it has been made again */
    uint32_t max_pending;  /* calls that may wait at a time, 0: no limit */
    uint64_t waiting[4] __attribute__((aligned(64)));
    /* bit per process: its mailbox has something; set by the caller after its tail, cleared by the
     * actor before it looks */
    uint64_t callers[4];   /* bit per process that ever called: set by the caller */
} pr_actor;

/* Calls from one process to one actor, in order: numbers count up for ever, entry n of segment
 * n / PR_CALLS.  As in the lanes, an entry is a hint: the task's own state and its `actor` decide.
 * A segment begins with the slot of the next one. */
typedef struct {
    uint64_t tail;         /* caller: number of the next call */
    uint64_t first;        /* caller: oldest segment that is still there, index << 32 | slot */
    uint64_t actor;        /* caller: which actor this is for; what another one left is no matter */
    uint64_t head __attribute__((aligned(64))); /* actor: all calls before this one are done */
} pr_mailbox;

/* How an attempt at a task ended: written by whoever ended it, one line each. */
enum {
    EVENT_FAILED = 1,      /* with an error */
    EVENT_DIED = 2,        /* its process died */
    EVENT_CANCELLED = 4,
    EVENT_CREATES = 8,     /* it was to make an actor */
    EVENT_NEVER = 16,      /* nothing of the user's has run */
};
typedef struct {
    uint64_t start_ns;     /* CLOCK_MONOTONIC; 0: not known, or it never ran */
    uint64_t end_ns;
    uint64_t counter;      /* with parent_id the task's id */
    uint64_t actor;        /* handle, or 0 */
    uint32_t func;
    uint32_t pid;          /* of the process that ran it, 0: none did */
    uint16_t attempt;
    uint8_t flags;         /* EVENT_* */
    uint8_t proc;          /* and that one's slot */
    uint8_t parent_id[20];
} pr_event;

/* The last ends of tasks, of a process slot: events `written - PR_EVENTS + 1` to `written - 1` are
 * there, and the next one is being written in the place of the one before them.  Numbers go on when
 * the slot gets another process, so that what a dead one did is still known. */
typedef struct {
    uint64_t written __attribute__((aligned(64)));  /* its process: events ever */
    pr_event event[PR_EVENTS] __attribute__((aligned(64)));
} pr_events;

/* What an object's 20 bytes hash from, for those who list objects.  It stands in the record, at
 * data + PR_NAME_AT, as long as the value leaves room there; a value that does not moves it to the
 * table of names, which costs a cache miss.  The low 16 bits of the record's generation stand at the
 * top of `counter`: a stale name is recognised. */
typedef struct {
    uint64_t counter;      /* last to be written, first to be cleared */
    uint32_t index;
    uint8_t parent_id[20];
} pr_name;
#define PR_NAME_AT 16

typedef struct {
    uint64_t bits[4];      /* free blocks: fetch_or by whoever frees, taken by the owner */
    uint32_t block;        /* bytes per block */
    uint32_t owner;        /* process + 1 */
    uint64_t orphan;       /* node: left by a dead process, nobody allocates from it */
    uint64_t takes;        /* owner: +1 before and after it takes bits, for ever; see heap_free_by */
    uint64_t pad;
} pr_slab;

/* What is known of a large block: at the number of its first unit.  (Not in the slab table, whose
 * lines of such units are free: a process that comes late to pin a block may find it gone, and a slab
 * in its place, whose free blocks are bits.) */
typedef struct {
    uint64_t pins[4];      /* bit p: process p looks at it; set and cleared by p alone */
    uint64_t object;       /* maker: handle of the object that lies there; may be stale */
    uint64_t stamp;        /* when it was made or got last, in ns; written by anybody, a hint */
    uint32_t spiller;      /* process + 1 that copies it to disk; by compare-and-swap */
    uint32_t pad[3];
} pr_run;

/* A link to one dep entry of a task: generation's low 24 bits | index of the dep | slot.  Slot
 * numbers start at PR_CHUNK_GRANULES, so no link is 0 (the end). */
#define PR_LINK(slot, gen, index)                                                               \
    (((uint64_t)((gen) & 0xFFFFFFu) << 40) | ((uint64_t)(index) << 24) | (uint64_t)(slot))
#define PR_MAX_DEPS 65535
#define PR_NOWHERE 0xFFFFFFFFu

#define PR_WAITER_MULTI 0xFFFFFFFFu

_Static_assert(sizeof(pr_object) == PR_GRANULE, "an object record is one granule");
_Static_assert(sizeof(pr_body) <= PR_NAME_AT, "an array's name has its room besides");
_Static_assert(sizeof(pr_cell) <= PR_INLINE_OBJECT, "a cell fits in its record");
_Static_assert(sizeof(pr_task) == 2 * PR_GRANULE, "a task record is two granules");
_Static_assert(sizeof(pr_actor) == 128, "an actor is two lines");
_Static_assert(sizeof(pr_mailbox) == 128, "a mailbox is two lines");
_Static_assert(sizeof(pr_event) == 64, "an event is one line");
_Static_assert(PR_NAME_AT + sizeof(pr_name) == PR_INLINE_OBJECT, "a name ends with its record");
_Static_assert(sizeof(pr_waiter) == 64, "a waiter has its cache line");
_Static_assert(sizeof(pr_chunk) % 64 == 0, "chunk headers do not share lines");
_Static_assert(sizeof(pr_slab) == 64, "a slab header is one line");
_Static_assert(sizeof(pr_run) == 64, "a large block has its line");
_Static_assert(sizeof(pr_header) <= 4096, "the header fits in its page");
_Static_assert(sizeof(pr_dispatch) <= 4096, "the dispatch words fit in their page");

/* Changes when a size does, so that a process of another build is refused at attach. */
#define PR_LAYOUT_HASH                                                                          \
    ((uint64_t)sizeof(pr_header) ^ ((uint64_t)sizeof(pr_dispatch) << 10)                        \
     ^ ((uint64_t)sizeof(pr_proc) << 20) ^ ((uint64_t)sizeof(pr_task) << 40)                    \
     ^ ((uint64_t)sizeof(pr_actor) << 45)    \
     ^ ((uint64_t)sizeof(pr_object) << 50) ^ ((uint64_t)PR_LAYOUT_VERSION << 60))

#endif
