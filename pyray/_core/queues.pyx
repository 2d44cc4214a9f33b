"""Ready queues: how a task gets from the process that made it ready to the worker that runs it.

Every process has eight lanes, each a first-in-first-out list of task handles: seven for one depth
each, the last for tasks that wait at the node for resources of their own.  Only the process itself
appends.  Anybody takes: what counts is the compare-and-swap on the *task's own* state word, from
READY to CLAIMED by me.  A lane's head, its entries and the hints are only hints about where to
look: a handle that stands there twice, or is stale, is skipped, because its generation or its
status does not fit.  So nothing here needs mending when a process dies in the middle, and a stopped
process holds up nobody.

A worker takes from the process whose hint is highest: deeper tasks first, which keeps the number of
blocked workers near depth x CPUs.  What a blocked worker awaits counts as one deeper than itself.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.records cimport gen_in, gen_of, plausible, segment_new, segment_recycle
from pyray._core.shm cimport Ctx, task_at

cdef enum:
    NODE_LANE = 7
    MAX_HINT = 255
    TURN = 16               # tasks in a row from one process, where others have as pressing ones

# First segment of each lane that is not recycled yet; private to the owner.
cdef uint64_t _oldest[8]
# Whose turn it is among processes with tasks that are equally pressing, and for how many more. Else
# what becomes ready in one process would wait for ever while another one keeps submitting.
cdef uint32_t _turn = 0
cdef uint32_t _left = TURN


cdef void queues_reset(Ctx *c) noexcept nogil:
    """Start with the lanes as they are in shared memory: all consumed, or new."""
    global _turn
    cdef int i
    for i in range(PR_LANES):
        _oldest[i] = (c.me.lane[i].tail + PR_SEGMENT_ENTRIES - 1) // PR_SEGMENT_ENTRIES
    _turn = c.self


cdef inline uint64_t *segment_at(Ctx *c, pr_lane *lane, uint64_t index) noexcept nogil:
    cdef uint64_t slot = lane.segment[(index // PR_SEGMENT_ENTRIES) % PR_SEGMENTS]
    return <uint64_t *>(c.records + slot * PR_GRANULE)


cdef inline bint lane_empty(pr_lane *lane) noexcept nogil:
    return <int64_t>(at_load64(&lane.tail) - at_load64(&lane.head)) <= 0


cdef inline uint32_t label(int32_t depth) noexcept nogil:
    return <uint32_t>depth + 1 if depth + 1 < MAX_HINT else MAX_HINT


cdef int choose_lane(Ctx *c, int32_t depth) noexcept nogil:
    cdef int i, empty = -1, best = 0
    cdef int32_t distance, best_distance = 1 << 30
    cdef pr_lane *lane
    for i in range(NODE_LANE):
        lane = &c.me.lane[i]
        if lane.depth == depth:
            return i
        if lane_empty(lane):
            if empty < 0:
                empty = i
            continue
        distance = depth - lane.depth
        if distance < 0:
            distance = -distance
        if distance < best_distance:
            best_distance = distance
            best = i
    if empty >= 0:
        c.me.lane[empty].depth = depth
        return empty
    return best     # more depths than lanes: among its nearest; only the order suffers


cdef bint queue_push(Ctx *c, uint64_t task, uint32_t depth) noexcept nogil:
    """Append a READY task to this process's lanes.  False when the lane or the records are full."""
    return append(c, task, choose_lane(c, <int32_t>depth))


cdef bint node_queue_push(Ctx *c, uint64_t task) noexcept nogil:
    """Append a task that only the node can place (state NODE).  The caller rings the node."""
    return append(c, task, NODE_LANE)


cdef uint64_t node_queue_pop(Ctx *c, uint32_t proc) noexcept nogil:
    """The node's side of it: its only consumer."""
    cdef pr_lane *lane = &c.procs[proc].lane[NODE_LANE]
    cdef uint64_t head, entry
    head = at_load64(&lane.head)
    if lane_empty(lane):
        return 0
    entry = at_load64(segment_at(c, lane, head) + head % PR_SEGMENT_ENTRIES)
    at_store64(&lane.head, head + 1)
    return entry


cdef bint append(Ctx *c, uint64_t task, int i) noexcept nogil:
    cdef pr_lane *lane = &c.me.lane[i]
    cdef uint64_t at = lane.tail
    cdef uint64_t head
    cdef uint32_t slot, mark
    if at % PR_SEGMENT_ENTRIES == 0:
        # A new segment; those that all consumers have passed are used again.  A consumer that
        # still looks at one of those reads some other live handle at worst.
        head = at_load64(&lane.head)
        while (_oldest[i] + 1) * PR_SEGMENT_ENTRIES <= head:
            segment_recycle(lane.segment[_oldest[i] % PR_SEGMENTS])
            _oldest[i] += 1
        if at // PR_SEGMENT_ENTRIES - _oldest[i] >= PR_SEGMENTS - 1:
            return False
        slot = segment_new(c)
        if slot == 0:
            return False
        lane.segment[(at // PR_SEGMENT_ENTRIES) % PR_SEGMENTS] = slot
        PR_POINT(c, POINT_SEGMENT_SWITCHED)
    at_store_release64(segment_at(c, lane, at) + at % PR_SEGMENT_ENTRIES, task)
    PR_HOT_POINT(c, POINT_ENTRY_WRITTEN)
    at_store64(&lane.tail, at + 1)
    PR_HOT_POINT(c, POINT_TAIL_MOVED)
    # After the tail: a consumer that lowers the hint looks at the tail again afterwards.
    if i == NODE_LANE:
        return True
    mark = label(lane.depth)
    if at_load8(&c.dispatch.hint[c.self]) < mark:
        at_store8(&c.dispatch.hint[c.self], <uint8_t>mark)
    return True


cdef bint claim_task(Ctx *c, uint64_t handle) noexcept nogil:
    """Make a READY task this process's.  True for exactly one process per attempt."""
    cdef pr_task *t = task_at(c, handle)
    cdef uint64_t s = at_load64(&t.state)
    if (s & 0xFF) != TASK_READY or gen_of(s) != gen_in(handle):
        return False
    # The intent first: after a death the node looks at `current` to find what was claimed.
    at_store64(&c.me.current, handle)
    PR_HOT_POINT(c, POINT_ABOUT_TO_CLAIM)
    if not at_cas64(&t.state, s, (s & PR_KEEP_ATTEMPT) | TASK_CLAIMED | (<uint64_t>c.self << 48)):
        return False
    PR_POINT(c, POINT_CLAIMED)
    return True


cdef uint64_t claim_from(Ctx *c, pr_lane *lane) noexcept nogil:
    cdef uint64_t head, entry
    while True:
        head = at_load64(&lane.head)
        if <int64_t>(at_load64(&lane.tail) - head) <= 0:
            return 0
        entry = at_load64(segment_at(c, lane, head) + head % PR_SEGMENT_ENTRIES)
        if plausible(c, entry) and claim_task(c, entry):
            at_cas64(&lane.head, head, head + 1)
            return entry
        at_cas64(&lane.head, head, head + 1)


cdef int best_lane(pr_proc *p) noexcept nogil:
    cdef int i, best = -1
    cdef int32_t deepest = -1
    for i in range(NODE_LANE):
        if not lane_empty(&p.lane[i]) and p.lane[i].depth > deepest:
            deepest = p.lane[i].depth
            best = i
    return best


cdef void refresh_hint(Ctx *c, uint32_t proc) noexcept nogil:
    cdef int i
    cdef uint32_t mark, again
    while True:
        i = best_lane(&c.procs[proc])
        mark = 0 if i < 0 else label(c.procs[proc].lane[i].depth)
        at_store8(&c.dispatch.hint[proc], <uint8_t>mark)
        # Look again: what was pushed before the store above could be seen as hinted already.
        i = best_lane(&c.procs[proc])
        again = 0 if i < 0 else label(c.procs[proc].lane[i].depth)
        if again <= mark:
            return


cdef uint64_t queue_claim(Ctx *c) noexcept nogil:
    """Claim the most pressing ready task of all processes; 0 when there is none."""
    global _turn, _left
    cdef uint32_t high = at_load32(&c.head.procs_high)
    cdef uint32_t words = (high + 7) // 8
    cdef uint32_t i, w, p, value, key, best, best_proc
    cdef uint64_t word, task
    cdef int lane
    while True:
        best = 0
        best_proc = 0
        for i in range(words):
            w = (_turn // 8 + i) % words
            word = at_load_relaxed64(<uint64_t *>&c.dispatch.hint[w * 8])
            if word == 0:
                continue
            for p in range(8):
                value = (word >> (8 * p)) & 0xFF
                if value == 0:
                    continue
                # The deepest; of several, whose turn it is, or comes next.
                key = (value << 8) + (255 - ((w * 8 + p - _turn) & 255))
                if key > best:
                    best = key
                    best_proc = w * 8 + p
        if best == 0:
            return 0
        lane = best_lane(&c.procs[best_proc])
        if lane >= 0:
            task = claim_from(c, &c.procs[best_proc].lane[lane])
            if task:
                if best_proc != _turn:
                    _turn = best_proc
                    _left = TURN
                _left -= 1
                if _left == 0:
                    _turn = best_proc + 1
                    _left = TURN
                return task
        refresh_hint(c, best_proc)
        _turn = best_proc + 1
        _left = TURN


cdef bint queue_visible(Ctx *c) noexcept nogil:
    """Whether some hint says that there is work."""
    cdef uint32_t words = (at_load32(&c.head.procs_high) + 7) // 8
    cdef uint32_t w
    for w in range(words):
        if at_load64(<uint64_t *>&c.dispatch.hint[w * 8]) != 0:
            return True
    return False


cdef bint queue_more(Ctx *c) noexcept nogil:
    """Whether there is work, by the lanes that the hints point to: a hint stays up after the last
    task was taken, and waking somebody for nothing costs more than this look."""
    cdef uint32_t p, w, words = (at_load32(&c.head.procs_high) + 7) // 8
    cdef uint64_t word
    for w in range(words):
        word = at_load64(<uint64_t *>&c.dispatch.hint[w * 8])
        if word == 0:
            continue
        for p in range(8):
            if (word >> (8 * p)) & 0xFF and best_lane(&c.procs[w * 8 + p]) >= 0:
                return True
    return False


cdef bint queue_visible_slow(Ctx *c) noexcept nogil:
    """The same from the lanes themselves, mending hints that a death left wrong."""
    cdef uint32_t p, high = at_load32(&c.head.procs_high)
    cdef bint any = False
    for p in range(high):
        if best_lane(&c.procs[p]) >= 0:
            refresh_hint(c, p)
            any = True
    return any


cdef void requeue_lanes(Ctx *c, uint32_t proc) noexcept nogil:
    """The node queues again what a dead process had queued: tasks of others among it, which became
    ready when the process sealed their argument."""
    cdef int i
    cdef uint64_t at, entry, s
    cdef pr_lane *lane
    cdef pr_task *t
    for i in range(PR_LANES):
        lane = &c.procs[proc].lane[i]
        at = at_load64(&lane.head)
        while <int64_t>(at_load64(&lane.tail) - at) > 0:
            entry = at_load64(segment_at(c, lane, at) + at % PR_SEGMENT_ENTRIES)
            at += 1
            if not plausible(c, entry):
                continue
            t = task_at(c, entry)
            s = at_load64(&t.state)
            if gen_of(s) != gen_in(entry):
                continue
            if (s & 0xFF) == TASK_READY:
                queue_push(c, entry, t.depth)
            elif (s & 0xFF) == TASK_NODE:
                node_queue_push(c, entry)


cdef uint32_t queue_segments(Ctx *c) noexcept nogil:
    """Segments that this process's lanes have."""
    cdef uint32_t n = 0
    cdef int i
    for i in range(PR_LANES):
        n += (c.me.lane[i].tail + PR_SEGMENT_ENTRIES - 1) // PR_SEGMENT_ENTRIES - _oldest[i]
    return n


cdef uint64_t queue_length(Ctx *c, uint32_t proc) noexcept nogil:
    cdef uint64_t n = 0
    cdef int i
    for i in range(NODE_LANE):
        if not lane_empty(&c.procs[proc].lane[i]):
            n += c.procs[proc].lane[i].tail - c.procs[proc].lane[i].head
    return n
