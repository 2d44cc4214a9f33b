/* Kill points: named steps of the core at which a test can have a process killed or stopped.
 *
 * One word in shared memory says which step is armed, and a step costs some eight instructions, of which
 * none is a branch that is taken.  A task without arguments or value passes three that are in every
 * build, and ten more, the HOT ones, that are compiled in with PYRAY_KILL_POINTS=1 or PYRAY_DEBUG=1 only:
 * together they would be 2% of its instructions (docs/design.md has the figures).
 */
#ifndef PYRAY_POINTS_H
#define PYRAY_POINTS_H

#include <signal.h>
#include <unistd.h>

#include "layout.h"

/* Where each stands is to be found by its name in the .pyx files. */
#define PR_POINT_LIST(X)                                                                          \
    X(BLOCK_CLAIMED, "block claimed")               /* room in the arena, in no record yet */     \
    X(RUN_HALF_CLAIMED, "run half claimed")         /* some of a large block's units */           \
    X(SLAB_CLAIMED, "slab claimed")                 /* the unit, of which no slab was made */     \
    X(PUT_HALF_COPIED, "put half copied")           /* a large value */                           \
    X(PAYLOAD_WRITTEN, "payload written")           /* and not sealed */                          \
    X(SEALED, "sealed")                             /* and nobody told */                         \
    X(RESULTS_HALF_SEALED, "results half sealed")   /* the first of a task's several */           \
    X(RESULTS_SEALED, "results sealed")             /* and the task's record not given back */    \
    X(HOLD_SET, "hold set")                         /* the bit, and not the version */            \
    X(HOLD_CLEARED, "hold cleared")                 /* maybe the last, and nobody frees yet */    \
    X(FREEING, "freeing")                           /* the record says so, the block is there */  \
    X(RUN_HALF_FREED, "run half freed")             /* some of a large block's units */           \
    X(BLOCK_FREED, "block freed")                   /* and the record not */                      \
    X(RECORD_FREED, "record freed")                 /* and listed nowhere as free */              \
    X(RECORD_TAKEN, "record taken")                 /* of an object, and empty */                 \
    X(TASK_TAKEN, "task taken")                     /* the record of a new task, and empty */     \
    X(CHUNK_CLAIMED, "chunk claimed")               /* of records, and nobody's */                \
    X(CHUNK_ADOPTED, "chunk adopted")               /* from a dead process, its free bits not */  \
    X(SUBMITTED, "submitted")                       /* READY, and in no queue */                  \
    X(ENTRY_WRITTEN, "entry written")               /* into a lane, whose tail says nothing */    \
    X(TAIL_MOVED, "tail moved")                     /* of a lane, whose hint says nothing */      \
    X(SEGMENT_SWITCHED, "segment switched")         /* of a lane, and nothing in the new one */   \
    X(ABOUT_TO_CLAIM, "about to claim")             /* `current` says what */                     \
    X(CLAIMED, "claimed")                           /* and not running */                         \
    X(RUNNING, "running")                           /* and nothing of the user's has run */       \
    X(ENDING, "ending")                             /* the block of its returns is given back */  \
    X(AWAITED, "awaited")                           /* a dep is on the object's list */           \
    X(LIST_TAKEN, "list taken")                     /* of dependents, and nobody told */          \
    X(MADE_READY, "made ready")                     /* a task that waited, and not queued */      \
    X(EVENT_HALF_WRITTEN, "event half written")                                                   \
    X(TOKEN_TAKEN, "token taken")                   /* and not noted */                           \
    X(TOKEN_HANDED_ON, "token handed on")           /* and its new holder not told */             \
    X(TOKEN_FREED, "token freed")                   /* and nobody woken */                        \
    X(RESUMING_CHOSEN, "resuming chosen")           /* who is to have a token, which it has not */ \
    X(NODE_CHOSEN, "node chosen")                   /* the same, of the node */                   \
    X(IDLE_CHOSEN, "idle chosen")                   /* a worker to be woken */                    \
    X(SPAWN_ASKED, "spawn asked")                   /* and the node not rung */                   \
    X(CALL_ENTERED, "call entered")                 /* in a mailbox, whose bit says nothing */    \
    X(MAILBOX_OPENED, "mailbox opened")             /* its first segment */                       \
    X(CELL_ANNOUNCED, "cell announced")             /* that comes after the one being filled */   \
    X(CELL_SEALED, "cell sealed")                   /* and the task's record not moved on */      \
    X(ARRAY_OPENED, "array opened")                 /* a shared array, of which no view is */     \
    X(ARRAY_SEALED, "array sealed")                                                               \
    X(DEFINITION_RESERVED, "definition reserved")   /* a number, without its bytes */             \
    X(DEFINITION_HELD, "definition held")           /* by the node, and not in the table */       \
    X(NESTED_TAKEN, "nested taken")                 /* an owner holds the ids inside, unsaid */   \
    X(SPILL_CLAIMED, "spill claimed")               /* a block, of which nothing is copied */     \
    X(SPILL_PLACED, "spill placed")                 /* in the file, with nothing there */         \
    X(SPILL_COPIED, "spill copied")                 /* and the object is where it was */          \
    X(SPILL_MARKED, "spill marked")                 /* readers are to take the mark away */       \
    X(SPILL_MOVED, "spill moved")                   /* and the old block is nobody's */           \
    X(SPILL_FORGOTTEN, "spill forgotten")           /* the claim, and the old block not freed */

#define PR_POINT_ENUM(name, text) POINT_##name,
enum { POINT_NONE = 0, PR_POINT_LIST(PR_POINT_ENUM) POINT_COUNT };
#undef PR_POINT_ENUM

/* The armed process comes to the armed step: whoever brings the count to 0 gets the signal. */
static __attribute__((cold, noinline, unused)) void pr_point_hit(pr_header *h, uint32_t role)
{
    if (!(h->point_roles >> role & 1) || __atomic_fetch_sub(&h->point_left, 1, __ATOMIC_SEQ_CST) != 1)
        return;
    h->point_pid = (uint32_t)getpid();
    __atomic_store_n(&h->point, POINT_NONE, __ATOMIC_SEQ_CST);
    kill(getpid(), (int)h->point_signal);
}

#if defined(PYRAY_DEBUG) && !defined(PYRAY_KILL_POINTS)
#define PYRAY_KILL_POINTS 1
#endif
#ifdef PYRAY_KILL_POINTS
#define PR_HAS_HOT_POINTS 1
#define PR_HOT_POINT(c, which) PR_POINT(c, which)
#else
#define PR_HAS_HOT_POINTS 0
#define PR_HOT_POINT(c, which) ((void)0)
#endif

#define PR_POINT(c, which)                                                                        \
    do {                                                                                          \
        if (__builtin_expect(__atomic_load_n(&(c)->head->point, __ATOMIC_RELAXED) == (which), 0)) \
            pr_point_hit((c)->head, (c)->me->role);                                               \
    } while (0)

#endif
