"""The books of shared memory, checked: nothing is anybody's twice, or nobody's.

Two parts.  Each process *answers* for what only it knows (`answer`): the ids that it holds, and
what it keeps free for itself, which it lists with what is free.  Then the node *walks* the memory,
in its own thread, so that no death is being cleared up meanwhile; there is one function for each
structure.

The walk of a session in which nothing goes on is exact.  Where something does, records change under
the walk, so whoever asks (pyray/accounting.py) asks again, and counts what is found each time.  Of
a process that did not answer, since it runs a task, it cannot be told what it keeps in hand:
claimed blocks that no object names are not held against it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pyray._core.actors cimport mailbox_segments
from pyray._core.heap cimport heap_is_small, heap_settle, units_high
from pyray._core.holds cimport contained_ids, is_known, known_handles
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.mailboxes cimport Cursor, entry_at
from pyray._core.objects cimport alive, deps_of, has_block, is_there, sealed
from pyray._core.pins cimport place_of
from pyray._core.queues cimport queue_segments
from pyray._core.records cimport gen_in, gen_of, handle_of, next_record, records_settle, used_chunks
from pyray._core.shm cimport Ctx, get_ctx, mailbox_at, object_at, task_at
from pyray._core.store cimport PACKED_BYTES, ObjectID, private_ids
from pyray._core.tasks cimport tasks_to_free

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot
    MOST = 8                # findings of a sort that are spelled out
    CHAIN = 4096            # links of a list of dependents that are followed

cdef extern from *:
    """
    enum { WRONG_NOTHING, WRONG_STALE_HOLD, WRONG_LOST_HOLD, WRONG_INSIDE, WRONG_TASK };
    """
    enum:
        WRONG_NOTHING, WRONG_STALE_HOLD, WRONG_LOST_HOLD, WRONG_INSIDE, WRONG_TASK

cdef tuple _wrongs = (
    "",
    "has its bit in object {}, and does not know it",
    "knows object {}, which is gone or has not its bit",
    "is liable for the ids inside object {}, and does not hold them",
    "submitted task {}, which is left to it, and does not know it",
)


# ---- each process's answer -----------------------------------------------------------------

cdef int say_wrong(uint32_t what, uint64_t where) except -1:
    if C.me.audit_wrong == 0:
        C.me.audit_what = what
        C.me.audit_where = where
    C.me.audit_wrong += 1
    return 0


def answer():
    """Say what this process holds, if somebody asks; called by its sweeps."""
    cdef uint32_t number
    cdef uint64_t slot = 0
    check_session()
    number = at_load32(&C.dispatch.audit)
    heap_settle(C)
    records_settle(C)
    C.me.audit_wrong = 0
    C.me.audit_private = private_ids()
    C.me.audit_segments = queue_segments(C) + mailbox_segments()
    check_known()
    while next_record(C, KIND_OBJECTS, &slot):
        own_object(slot)
    check_held()
    at_store32(&C.me.audit_number, number)


cdef int check_known() except -1:
    cdef uint64_t handle
    cdef uint64_t bit = <uint64_t>1 << (C.self % 64)
    for key in known_handles():
        handle = key
        if not alive(C, handle) or not at_load64(
                &object_at(C, handle).holders[C.self // 64]) & bit:
            say_wrong(WRONG_LOST_HOLD, handle)
    return 0


cdef int own_object(uint64_t slot) except -1:
    cdef pr_object *o = object_at(C, slot)
    cdef uint64_t s = at_load64(&o.state), handle = handle_of(slot, s)
    cdef uint32_t p
    if not is_there(s):
        return 0
    if at_load64(&o.holders[C.self // 64]) & (<uint64_t>1 << (C.self % 64)):
        # Those that hold definitions the node holds without knowing it: see `definitions`.
        if not is_known(handle) and C.self != NODE:
            say_wrong(WRONG_STALE_HOLD, handle)
    if (s & 0xFF) == OBJ_SEALED and s & OBJ_NESTED and not s & OBJ_CELL:
        p = o.owner if s & OBJ_ACKED else o.liable
        if p == C.self and handle not in contained_ids():
            say_wrong(WRONG_INSIDE, handle)
    return 0


cdef int check_held() except -1:
    """Tasks that this process is to free."""
    cdef set held = tasks_to_free()
    cdef uint64_t slot = 0, s
    cdef pr_task *t
    while next_record(C, KIND_TASKS, &slot):
        t = task_at(C, slot)
        s = at_load64(&t.state)
        if ((s & 0xFF) == TASK_FREE or (s & 0xFF) == TASK_NEW or t.submitter != C.self
                or not at_load16(&t.flags) & TASK_F_HELD):
            continue
        if handle_of(slot, s) not in held:
            say_wrong(WRONG_TASK, handle_of(slot, s))
    return 0


# ---- asking --------------------------------------------------------------------------------

def ask():
    """Have every process answer; the number of the question."""
    check_session()
    return at_add32(&C.dispatch.audit, 1) + 1


def unanswered(uint32_t number):
    """[(slot, whether it runs a task)] of processes that have not answered; not the node."""
    cdef uint32_t p
    cdef list found = []
    check_session()
    for p in range(at_load32(&C.head.procs_high)):
        if p != NODE and lives(p) and at_load32(&C.procs[p].audit_number) != number:
            found.append((p, at_load64(&C.procs[p].current) != 0))
    return found


cdef inline bint lives(uint32_t p) noexcept nogil:
    cdef uint32_t status
    if p >= PR_MAX_PROCS:
        return False
    status = at_load32(&C.procs[p].status)
    return status == PROC_ALIVE or status == PROC_STARTING


# ---- the walk ------------------------------------------------------------------------------

cdef class Walk:
    """One look at everything, and what it found.

    Parameters
    ----------
    number : int
        The question that processes have answered, or not.
    """
    cdef uint32_t number
    cdef bint quiet             # every process has answered
    cdef uint64_t units         # those of the spill file that were ever used, too
    cdef uint8_t *runs          # of each unit: how many large blocks lie there
    cdef uint64_t *blocks       # of each slab: which blocks records name
    cdef uint32_t private[256]  # of each process: objects that only their owner can hold
    cdef uint32_t segments[256]
    cdef dict count             # by sort
    cdef list found
    cdef set queued             # handles in lanes and mailboxes
    cdef readonly list at_node  # handles of tasks that wait at the node
    cdef readonly uint64_t used, in_hand

    def __cinit__(self, number):
        check_session()
        self.number = number
        self.units = units_high(C)
        self.runs = <uint8_t *>calloc(self.units, 1)
        self.blocks = <uint64_t *>calloc(self.units * 4, 8)
        if self.runs == NULL or self.blocks == NULL:
            raise MemoryError("no memory to check the store's books")
        memset(self.private, 0, sizeof(self.private))
        memset(self.segments, 0, sizeof(self.segments))
        self.count, self.found, self.queued, self.at_node = {}, [], set(), []
        self.quiet = not unanswered(number)

    def __dealloc__(self):
        free(self.runs)
        free(self.blocks)

    cdef int wrong(self, str sort, str text) except -1:
        n = self.count.get(sort, 0)
        self.count[sort] = n + 1
        if n < MOST:
            self.found.append(f"{sort}: {text}")
        return 0

    cdef bint answered(self, uint32_t p) noexcept:
        """Whether what a process keeps in hand is known: nothing."""
        return p == NODE or at_load32(&C.procs[p].audit_number) == self.number

    cdef str process(self, uint32_t p):
        if p >= PR_MAX_PROCS:
            return f"process {p}, which cannot be"
        what = "" if lives(p) else ", which is dead"
        return f"process {p} (pid {C.procs[p].pid}{what})"

    # ---- units and slabs

    cdef int place(self, uint64_t off, uint64_t size, str whose) except -1:
        """A record names this block."""
        cdef uint64_t u, block, unit = off // PR_UNIT
        cdef pr_slab *s
        if off + size > self.units * PR_UNIT or size == 0:
            return self.wrong("place", f"{whose} lies at {off}, {size} bytes, outside the arena "
                              "and the spill file")
        if not heap_is_small(size):
            for u in range(unit, (off + size + PR_UNIT - 1) // PR_UNIT):
                if at_load32(&C.units[u]) >> 16 != UNIT_LARGE:
                    return self.wrong("lost", f"unit {u} of {whose} is not claimed as a large one")
                if self.runs[u]:
                    self.wrong("double", f"unit {u} is {whose}'s and another's")
                self.runs[u] += self.runs[u] < 255
            return 0
        s = &C.slabs[unit]
        if at_load32(&C.units[unit]) >> 16 != UNIT_SLAB or s.block < size:
            return self.wrong("lost", f"{whose} lies in unit {unit}, which is no slab for it")
        block = (off % PR_UNIT) // s.block
        if off % PR_UNIT != block * s.block:
            return self.wrong("place", f"{whose} does not begin where a block of its slab does")
        if self.blocks[unit * 4 + block // 64] & (<uint64_t>1 << (block % 64)):
            self.wrong("double", f"block {block} of unit {unit} is {whose}'s and another's")
        self.blocks[unit * 4 + block // 64] |= <uint64_t>1 << (block % 64)
        return 0

    cdef int check_units(self) except -1:
        """Each unit is free, or a claim of a live process that some record names: used + free =
        capacity."""
        cdef uint64_t u
        cdef uint32_t word, p
        for u in range(self.units):
            word = at_load32(&C.units[u])
            if word == 0:
                if self.runs[u]:
                    self.wrong("lost", f"unit {u} is a large object's, and free")
                continue
            self.used += u < C.head.n_units
            if u < C.head.n_units and word >> 16 == UNIT_LARGE:
                self.check_run(u)
            p = (word & 0xFFFF) - 1
            if not lives(p):
                self.wrong("dead", f"unit {u} is claimed by {self.process(p)}")
            elif word >> 16 == UNIT_SLAB:
                self.check_slab(u, p)
            elif word >> 16 != UNIT_LARGE:
                self.wrong("place", f"unit {u} is claimed for {word >> 16}, which is nothing")
            elif not self.runs[u]:
                if self.answered(p):
                    self.wrong("leak", f"unit {u} is claimed by {self.process(p)} for nothing")
                self.in_hand += 1
        return 0

    cdef int check_run(self, uint64_t u) except -1:
        """Who looks at a large block, or copies it to disk, is alive."""
        cdef uint32_t w, p, spiller = at_load32(&C.runs[u].spiller)
        cdef uint64_t bits
        for w in range(4):
            bits = at_load64(&C.runs[u].pins[w])
            p = w * 64
            while bits:
                if bits & 1 and not lives(p):
                    self.wrong("dead", f"unit {u} is pinned by {self.process(p)}")
                bits >>= 1
                p += 1
        if spiller and (not lives(spiller - 1) or self.answered(spiller - 1)):
            self.wrong("stuck", f"unit {u} was being copied to disk by {self.process(spiller - 1)}")
        return 0

    cdef int check_slab(self, uint64_t u, uint32_t p) except -1:
        """Each block is free or some record's, and not both."""
        cdef pr_slab *s = &C.slabs[u]
        cdef uint32_t i, n
        cdef uint64_t bit, free_bits, used
        if s.owner != p + 1 or s.block == 0 or s.block > PR_UNIT:
            if self.answered(p):
                self.wrong("leak", f"unit {u} is claimed by {self.process(p)} for no slab")
            return 0
        n = PR_UNIT // s.block
        for i in range(256):
            bit = <uint64_t>1 << (i % 64)
            free_bits = at_load64(&s.bits[i // 64]) & bit
            used = self.blocks[u * 4 + i // 64] & bit
            if i >= n:
                if free_bits:
                    self.wrong("place", f"block {i} of unit {u} is free, and there are {n}")
            elif free_bits and used:
                self.wrong("double", f"block {i} of unit {u} is an object's, and free")
            elif not free_bits and not used:
                if self.answered(p):
                    self.wrong("leak", f"block {i} of unit {u} ({s.block} bytes) of "
                               f"{self.process(p)} is neither free nor anything's")
        return 0

    # ---- records

    cdef int check_chunks(self) except -1:
        """Each chunk's owner is alive, each free record is listed, each segment is in use."""
        cdef uint32_t k, i, p, kind, step
        cdef uint64_t slot, s
        for k in range(1, used_chunks(C)):
            kind = at_load32(&C.chunks[k].kind)
            p = at_load32(&C.chunks[k].owner) - 1
            if p == 0xFFFFFFFF:
                continue        # for whoever needs one
            if not lives(p):
                self.wrong("dead", f"chunk {k} is {self.process(p)}'s")
                continue
            if not self.answered(p):
                continue
            if kind == KIND_SEGMENT:
                self.segments[p] += not C.chunks[k].free_bits[0] & 1
            elif kind == KIND_NONE:
                self.wrong("leak", f"chunk {k} is {self.process(p)}'s for nothing")
            else:
                step = 1 if kind == KIND_OBJECTS else 2
                for i in range(PR_CHUNK_GRANULES // step):
                    slot = i * step
                    s = at_load64(<uint64_t *>object_at(C, k * PR_CHUNK_GRANULES + slot))
                    # One that was never used is its allocator's next.
                    if s and (s & 0xFF) == OBJ_FREE and not at_load64(
                            &C.chunks[k].free_bits[slot // 64]) & (<uint64_t>1 << (slot % 64)):
                        self.wrong("leak", f"record {k * PR_CHUNK_GRANULES + slot} is free, and "
                                   f"not listed in {self.process(p)}'s chunk")
        return 0

    cdef int check_objects(self) except -1:
        cdef uint64_t slot = 0
        while next_record(C, KIND_OBJECTS, &slot):
            self.check_object(slot)
        return 0

    cdef int check_object(self, uint64_t slot) except -1:
        """Somebody alive owns, holds and, if need be, will seal it."""
        cdef pr_object *o = object_at(C, slot)
        cdef uint64_t s = at_load64(&o.state)
        cdef uint32_t p, status = s & 0xFF
        cdef str name = f"object {slot}" if status != OBJ_FREE else None
        if status == OBJ_FREE:
            return 0
        if status == OBJ_EMPTY or status == OBJ_FREEING or status == OBJ_RELEASING:
            p = <uint32_t>(s >> 48) - 1
            if not lives(p) or self.answered(p):
                self.wrong("stuck", f"{name} was being made or freed by {self.process(p)}")
            if status == OBJ_FREEING and has_block(o, s):
                self.place(place_of(o), o.size, name)
            return 0
        if not is_there(s):
            return self.wrong("state", f"{name} is in state {status}, which is none")
        if status != OBJ_CREATED and has_block(o, s):
            self.place(place_of(o), o.size, name)
        if not lives(o.owner):
            self.wrong("dead", f"{name} is owned by {self.process(o.owner)}")
        if not self.check_holders(o, name) and not s & OBJ_DROPPED:
            if s >> 48:
                self.wrong("leak", f"nobody holds {name} any more")
            else:
                self.private[o.owner & 255] += 1
        if status == OBJ_CREATED:
            self.check_promise(o, s, name)
        elif status == OBJ_SEALED and s & OBJ_NESTED:
            if not s & OBJ_ACKED and not lives(o.liable):
                self.wrong("dead", f"the ids inside {name} are held by {self.process(o.liable)}")
            self.check_inside(o, s, name)
        return 0

    cdef bint check_holders(self, pr_object *o, str name) except -1:
        """Whether there is a bit."""
        cdef int w
        cdef uint32_t p
        cdef uint64_t bits
        cdef bint any_ = False
        for w in range(4):
            bits = at_load64(&o.holders[w])
            any_ = any_ or bits != 0
            p = w * 64
            while bits:
                if bits & 1 and not lives(p):
                    self.wrong("dead", f"{name} is held by {self.process(p)}")
                bits >>= 1
                p += 1
        return any_

    cdef int check_promise(self, pr_object *o, uint64_t s, str name) except -1:
        """An object that is not there yet: there is a task that makes it."""
        cdef uint64_t ts
        if o.task == 0:
            if s & OBJ_DROPPED and self.answered(o.owner):
                self.wrong("leak", f"{name} is dropped, and nobody will seal it")
            return 0
        ts = at_load64(&task_at(C, o.task).state)
        if (gen_of(ts) != gen_in(o.task) or (ts & 0xFF) == TASK_FREE or (ts & 0xFF) == TASK_DONE
                or (ts & 0xFF) == TASK_ENDING):
            self.wrong("wedged", f"{name} is to be made by a task that has ended")
        return 0

    cdef int check_inside(self, pr_object *o, uint64_t s, str name) except -1:
        """The ids inside a value are of objects that there are."""
        cdef pr_cell *cell = <pr_cell *>o.data
        cdef uint64_t count, i, off = place_of(o), size = o.size
        cdef const char *end
        if s & OBJ_CELL:
            # Once its reader has taken out what it needs, the ids there are stale.
            if not s & OBJ_ACKED and not (alive(C, cell.value) and alive(C, cell.next)):
                self.wrong("dangling", f"what {name} contains is gone")
            return 0
        end = C.payload + off + size - 8
        if off + size > self.units * PR_UNIT:
            return 0        # `place` has said so
        count = (<const uint64_t *>end)[0]
        if count * PACKED_BYTES + 8 > size:
            return self.wrong("place", f"{name} has no room for the {count} ids inside")
        for i in range(count):
            if not alive(C, (<const uint64_t *>(end - (count - i) * PACKED_BYTES + 8))[0]):
                self.wrong("dangling", f"an id inside {name} is of an object that is gone")
        return 0

    # ---- tasks

    cdef int find_queued(self) except -1:
        """What stands in lanes and mailboxes."""
        cdef uint32_t p, i, n
        cdef uint64_t at, tail
        cdef pr_lane *lane
        cdef pr_mailbox *row
        cdef Cursor u
        for p in range(at_load32(&C.head.procs_high)):
            for i in range(PR_LANES):
                lane = &C.procs[p].lane[i]
                at, tail = at_load64(&lane.head), at_load64(&lane.tail)
                if tail - at > <uint64_t>PR_SEGMENTS * PR_SEGMENT_ENTRIES:
                    continue
                while at < tail:
                    self.queued.add((<uint64_t *>(C.records + <uint64_t>lane.segment[
                        (at // PR_SEGMENT_ENTRIES) % PR_SEGMENTS] * PR_GRANULE))[
                            at % PR_SEGMENT_ENTRIES])
                    at += 1
                if at_load8(&C.dispatch.hint[p]) == 0 and i < PR_LANES - 1 and (
                        at_load64(&lane.tail) > at_load64(&lane.head)):
                    self.wrong("hint", f"lane {i} of {self.process(p)} has tasks, and no hint says"
                               " so")
        for n in range(C.head.actors_high):
            if (at_load64(&C.actors[n].state) & 0xFF) in (ACTOR_FREE, ACTOR_SETTLED):
                continue
            for p in range(at_load32(&C.head.procs_high)):
                if not at_load64(&C.actors[n].callers[p // 64]) & (<uint64_t>1 << (p % 64)):
                    continue
                row = mailbox_at(C, n, p)
                u.next = u.index = u.slot = 0
                at = max(at_load64(&row.head), (at_load64(&row.first) >> 32) * PR_CALLS)
                tail = at_load64(&row.tail)
                while at < tail:
                    self.queued.add(entry_at(C, row, &u, at))
                    at += 1
        return 0

    cdef int check_tasks(self) except -1:
        cdef uint64_t slot = 0
        while next_record(C, KIND_TASKS, &slot):
            self.check_task(slot)
        return 0

    cdef int check_task(self, uint64_t slot) except -1:
        """It is queued, waits for something, runs somewhere, or is its submitter's to free."""
        cdef pr_task *t = task_at(C, slot)
        cdef uint64_t s = at_load64(&t.state), handle = handle_of(slot, s)
        cdef uint32_t p = (s >> 48) & 0xFF, status = s & 0xFF
        cdef str name
        if status == TASK_FREE:
            return 0
        name = f"task {slot}"
        if status == TASK_NEW:
            if self.answered(t.submitter) or not lives(t.submitter):
                self.wrong("stuck", f"{name} was being written by {self.process(t.submitter)}")
            return 0
        if t.ext_size:
            self.place(t.ext, t.ext_size, name)
        if status == TASK_WAITING:
            self.check_waiting(t, handle, name)
        elif status == TASK_READY:
            if handle not in self.queued and self.quiet:
                self.wrong("wedged", f"{name} is ready, and in no queue")
            elif self.quiet and not t.actor:
                self.check_looked_for(name)
        elif status == TASK_NODE:
            self.at_node.append(handle)
        elif status == TASK_CLAIMED or status == TASK_RUNNING or status == TASK_ENDING:
            if not lives(p):
                self.wrong("dead", f"{name} is run by {self.process(p)}")
            elif (C.procs[p].role == ROLE_WORKER and self.answered(p)
                    and at_load64(&C.procs[p].current) != handle):
                self.wrong("wedged", f"{name} is claimed by {self.process(p)}, which does not run "
                           "it")
        elif status == TASK_DONE:
            if not at_load16(&t.flags) & TASK_F_HELD or not lives(t.submitter):
                self.wrong("leak", f"{name} is done, and nobody will free its record")
        else:
            self.wrong("state", f"{name} is in state {status}, which is none")
        if (status == TASK_WAITING or status == TASK_READY or status == TASK_NODE) and not lives(
                t.submitter):
            self.wrong("dead", f"{name} waits, and was submitted by {self.process(t.submitter)}")
        return 0

    cdef int check_waiting(self, pr_task *t, uint64_t handle, str name) except -1:
        """Something that it waits for is not there, and will tell it."""
        cdef pr_dep *d = deps_of(C, t)
        cdef uint64_t link
        cdef uint32_t i, _
        cdef bint waits = False
        for i in range(t.ndeps):
            if at_load32(&d[i].ready):
                continue
            waits = True
            if not alive(C, d[i].object):
                self.wrong("wedged", f"{name} waits for an object that is gone")
            elif sealed(C, d[i].object):
                self.wrong("wedged", f"{name} waits for an object that is there")
            else:
                link = at_load64(&object_at(C, d[i].object).dependents)
                for _ in range(CHAIN):
                    if link == 0 or link == PR_LINK(<uint32_t>handle, gen_in(handle), i):
                        break
                    link = next_link(link)
                if link == 0:
                    self.wrong("wedged", f"{name} waits for an object that does not know of it")
        if not waits:
            self.wrong("wedged", f"{name} waits for nothing")
        return 0

    cdef int check_looked_for(self, str name) except -1:
        cdef uint32_t i
        for i in range(C.head.num_tokens):
            if at_load32(&C.dispatch.token[i]) == 0:
                return self.wrong("wedged", f"{name} is ready, a CPU is free, and nobody runs it")
        return 0

    # ---- who runs

    cdef int check_dispatch(self) except -1:
        """Tokens, and who is idle or waits for one: each word names somebody alive."""
        cdef uint32_t i, v, p
        cdef uint64_t bit
        for i in range(C.head.num_tokens):
            v = at_load32(&C.dispatch.token[i])
            if v == 0 or v == NODE + 1:
                continue
            if not lives(v - 1):
                self.wrong("dead", f"CPU token {i} is {self.process(v - 1)}'s")
            elif self.quiet and at_load64(&C.procs[v - 1].current) == 0:
                self.wrong("leak", f"CPU token {i} is {self.process(v - 1)}'s, which runs nothing")
        for i in range(2):
            v = at_load32(&C.dispatch.searcher if i == 0 else &C.dispatch.filler)
            if v and not lives(v - 1):
                self.wrong("dead", f"the {'filler' if i else 'searcher'} is {self.process(v - 1)}")
        for p in range(PR_MAX_PROCS):
            bit = <uint64_t>1 << (p % 64)
            if not lives(p) and at_load64(&C.dispatch.idle[p // 64]) & bit:
                self.wrong("dead", f"{self.process(p)} counts as idle")
            if not lives(p) and at_load64(&C.dispatch.resume[p // 64]) & bit:
                self.wrong("dead", f"{self.process(p)} waits for a CPU token")
        return 0

    cdef int check_actors(self) except -1:
        cdef uint32_t i, p
        cdef pr_actor *a
        for i in range(C.head.actors_high):
            a = &C.actors[i]
            if (at_load64(&a.state) & 0xFF) == ACTOR_ALIVE and not lives(a.proc):
                self.wrong("dead", f"actor {i} lives in {self.process(a.proc)}")
            for p in range(PR_MAX_PROCS):
                if at_load64(&a.callers[p // 64]) & (<uint64_t>1 << (p % 64)) and not lives(p):
                    self.wrong("dead", f"actor {i} has a mailbox of {self.process(p)}")
        return 0

    cdef int check_definitions(self) except -1:
        """What the table names is there for good, and the node's bit alone holds nothing else."""
        cdef uint32_t n, most = at_load32(&C.head.funcs_used)
        cdef uint64_t slot = 0, s, handle
        cdef set published = set()
        for n in range(1, min(most, <uint32_t>PR_MAX_FUNCS)):
            handle = at_load64(&C.funcs[n].object)
            if handle:
                published.add(handle)
                if not alive(C, handle) or not at_load64(
                        &object_at(C, handle).holders[0]) & (1 << NODE):
                    self.wrong("dangling", f"definition {n} is gone, or not held for good")
        while next_record(C, KIND_OBJECTS, &slot):
            s = at_load64(&object_at(C, slot).state)
            handle = handle_of(slot, s)
            if (is_there(s) and at_load64(&object_at(C, slot).holders[0]) & (1 << NODE)
                    and not is_known(handle) and handle not in published
                    and self.answered(object_at(C, slot).owner)):
                self.wrong("stale", f"object {slot} is held by the node, which does not know it")
        return 0

    cdef int check_answers(self) except -1:
        """What processes have said of themselves agrees with the records."""
        cdef uint32_t p
        cdef pr_proc *q
        for p in range(at_load32(&C.head.procs_high)):
            q = &C.procs[p]
            if not lives(p) or not self.answered(p):
                continue
            if q.audit_wrong:
                what = (<str>_wrongs[q.audit_what]).format(<uint32_t>q.audit_where)
                more = f", and {q.audit_wrong - 1} more" if q.audit_wrong > 1 else ""
                self.wrong("own", f"{self.process(p)} {what}{more}")
            if q.audit_private != self.private[p]:
                self.wrong("leak" if q.audit_private < self.private[p] else "lost",
                           f"{self.process(p)} holds {q.audit_private} objects that nobody else "
                           f"knows of, and owns {self.private[p]} that nobody else holds")
            if q.audit_segments != self.segments[p]:
                self.wrong("leak", f"{self.process(p)} has {self.segments[p]} segments, and its "
                           f"lanes and mailboxes {q.audit_segments}")
        return 0

    def run(self):
        """Look at everything; what is wrong, a line for each finding."""
        self.find_queued()
        self.check_objects()
        self.check_tasks()
        self.check_units()
        self.check_chunks()
        self.check_dispatch()
        self.check_actors()
        self.check_definitions()
        self.check_answers()
        for sort, n in self.count.items():
            if n > MOST:
                self.found.append(f"{sort}: and {n - MOST} more")
        return self.found

    def figures(self):
        """Units of memory in use, units that processes have in hand, and all of memory's."""
        return self.used, self.in_hand, C.head.n_units


cdef uint64_t next_link(uint64_t link) noexcept nogil:
    """The link after one in an object's list of dependents; 0 where that does not hold any more."""
    cdef pr_task *t = task_at(C, link & 0xFFFFFF)
    cdef uint32_t index = (link >> 24) & 0xFFFF
    if (gen_of(at_load64(&t.state)) & 0xFFFFFF) != <uint32_t>(link >> 40) or index >= t.ndeps:
        return 0
    return deps_of(C, t)[index].next


def walk(uint32_t number):
    """The node's look at everything: (findings, units in use, units in hand, units)."""
    cdef Walk w
    answer()
    w = Walk(number)
    found = w.run()
    return found, w.at_node, w.figures()


# ---- for tests: what an audit is to find -----------------------------------------------------

def break_word(str what, uint64_t at, uint64_t value):
    """Set a word of shared memory, for tests of the audit; what it was.

    Parameters
    ----------
    what : str
        "unit", "token", "slab bits", "object state", "holders", "dependents", "offset",
        "task state", "chunk owner", "free bits" or "definition".
    at : int
        Which: a unit, a record's slot, ...
    value : int
        What it is to be.
    """
    cdef uint64_t old
    check_session()
    if what == "unit":
        return at_xchg32(&C.units[at], <uint32_t>value)
    if what == "token":
        return at_xchg32(&C.dispatch.token[at], <uint32_t>value)
    if what == "slab bits":
        return at_xchg64(&C.slabs[at].bits[0], value)
    if what == "object state":
        return at_xchg64(&object_at(C, at).state, value)
    if what == "holders":
        return at_xchg64(&object_at(C, at).holders[0], value)
    if what == "task state":
        return at_xchg64(&task_at(C, at).state, value)
    if what == "chunk owner":
        return at_xchg32(&C.chunks[at].owner, <uint32_t>value)
    if what == "dependents":
        return at_xchg64(&object_at(C, at).dependents, value)
    if what == "definition":
        return at_xchg64(&C.funcs[at].object, value)
    if what == "free bits":
        return at_xchg64(&C.chunks[at // 8].free_bits[at % 8], value)
    if what == "offset":
        old, object_at(C, at).off = object_at(C, at).off, value
        return old
    raise ValueError(f"{what!r} is no word that can be set")


def words():
    """For those tests: the unit words that are not 0, by unit."""
    check_session()
    return {u: C.units[u] for u in range(C.head.n_units) if C.units[u]}


def slot_of(ObjectID oid):
    """For those tests: the slot of an object's record."""
    return <uint32_t>oid.handle
