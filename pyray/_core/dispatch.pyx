"""Who runs: CPU tokens, the searcher, parking and waking.

A task of the default shape (one CPU) needs a *token* to run: a word in shared memory that names its
holder, changed by compare-and-swap.  There is one ledger, this one: the node, which lends CPUs to
tasks of other shapes, takes its tokens here as well.

Waking somebody costs some 40 us, so it is avoided: at most one idle worker spins (the *searcher*),
and whoever makes work ready wakes nobody while there is one.  A searcher that finds work passes the
role on if there may be more.  Going to sleep is announce-then-look-again on one side and
publish-then-look on the other, so no wake-up is lost between them; after a death or a stop in
between, `rescue` (called by whoever waits for long) makes up for it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport write
from pyray._core.layout cimport *
from pyray._core.points cimport *
from pyray._core.queues cimport queue_claim, queue_more, queue_visible, queue_visible_slow
from pyray._core.shm cimport Ctx

cdef extern from *:
    """
    #include <sys/timerfd.h>
    #define PR_CTZL(x) __builtin_ctzll(x)
    static void pr_set_timer(int fd, long ns)
    {
        struct itimerspec when = {{0, 0}, {0, ns}};
        if (fd >= 0)
            timerfd_settime(fd, 0, &when, NULL);
    }
    """
    int PR_CTZL(uint64_t x) nogil
    void pr_set_timer(int fd, long ns) nogil

cdef enum:
    NODE = 1                # the node's process slot
    SPIN_NS = 50000         # how long a searcher looks before it parks: about one wake-up's cost
    RESUME_RETRY_NS = 100000000
    ALARM_NS = 50000000
    ASK_AGAIN = 3           # such rounds

cdef int _alarm = -1

cdef void ring_node(Ctx *c) noexcept nogil:
    cdef uint64_t one = 1
    if c.bell_fd >= 0:
        write(c.bell_fd, &one, 8)


cdef void set_alarm(int fd):
    """The timer that wakes the node for `be_watched`."""
    global _alarm
    _alarm = fd


cdef void be_watched(Ctx *c) noexcept nogil:
    """Before a task runs: the node is to look after memory again, if it has stopped.  The word lies
    beside what is read for each task anyway.

    By a timer and not by the bell: woken at once the node would take its time from the very first
    task after a rest.
    """
    if at_load_relaxed32(&c.dispatch.watched) == 0 and at_cas32(&c.dispatch.watched, 0, 1):
        pr_set_timer(_alarm, ALARM_NS)


cdef void expect_here(pr_proc *p) noexcept nogil:
    """Before waking a process: where it parked on this CPU it will most likely come up on it,
    however idle the others are (to the scheduler a virtual CPU that is halted is a busy one).  Then
    its waker is not to spin: what it waits for needs this CPU."""
    cdef uint32_t here = cpu_here()
    if at_load_relaxed32(&p.parked_on) == here:
        at_store32(&p.cpu, here)


cdef void wake_process(Ctx *c, uint32_t proc) noexcept nogil:
    at_add32(&c.procs[proc].wake, 1)
    if at_load32(&c.procs[proc].parked):
        c.woken = proc + 1
        expect_here(&c.procs[proc])
        futex_wake(&c.procs[proc].wake, 1)


cdef inline int pop_bit(uint64_t *words) noexcept nogil:
    cdef int w, bit
    cdef uint64_t v
    for w in range(4):
        v = at_load64(&words[w])
        while v:
            bit = PR_CTZL(v)
            if at_and64(&words[w], ~(<uint64_t>1 << bit)) & (<uint64_t>1 << bit):
                return w * 64 + bit
            v = at_load64(&words[w])
    return -1


cdef inline void set_bit(uint64_t *words, uint32_t i) noexcept nogil:
    at_or64(&words[i // 64], <uint64_t>1 << (i % 64))


cdef inline bint clear_bit(uint64_t *words, uint32_t i) noexcept nogil:
    """True if it was set: whoever clears a bit owes its process what the bit asked for."""
    cdef uint64_t m = <uint64_t>1 << (i % 64)
    return (at_and64(&words[i // 64], ~m) & m) != 0


cdef inline bint any_bit(uint64_t *words) noexcept nogil:
    return (at_load64(&words[0]) | at_load64(&words[1])
            | at_load64(&words[2]) | at_load64(&words[3])) != 0


cdef int pop_idle(Ctx *c) noexcept nogil:
    """Take a parked worker; the caller must wake it."""
    return pop_bit(c.dispatch.idle)


cdef bint token_free(Ctx *c) noexcept nogil:
    cdef uint32_t i
    for i in range(c.head.num_tokens):
        if at_load32(&c.dispatch.token[i]) == 0:
            return True
    return False


cdef bint token_take(Ctx *c) noexcept nogil:
    cdef uint32_t i
    for i in range(c.head.num_tokens):
        if at_load_relaxed32(&c.dispatch.token[i]) == 0:
            if at_cas32(&c.dispatch.token[i], 0, c.self + 1):
                PR_POINT(c, POINT_TOKEN_TAKEN)
                c.me.token = i + 1
                return True
    return False


cdef bint node_takes(Ctx *c) noexcept nogil:
    """Count one token off what the node wants."""
    cdef uint32_t n = at_load32(&c.dispatch.node_wants)
    while n:
        if at_cas32(&c.dispatch.node_wants, n, n - 1):
            return True
        n = at_load32(&c.dispatch.node_wants)
    return False


cdef bint give_to_resuming(Ctx *c, uint32_t i) noexcept nogil:
    """Give token i, which the caller holds, to a worker whose wait is over."""
    cdef uint32_t mine = at_load32(&c.dispatch.token[i])
    cdef int r = pop_bit(c.dispatch.resume)
    while r >= 0:
        PR_POINT(c, POINT_RESUMING_CHOSEN)
        at_store32(&c.dispatch.token[i], <uint32_t>r + 1)
        PR_POINT(c, POINT_TOKEN_HANDED_ON)
        if at_load32(&c.procs[r].status) == PROC_ALIVE:
            at_store32(&c.procs[r].token, i + 1)
            wake_process(c, <uint32_t>r)
            return True
        # It died after it asked.  Recovery says so first and looks at the tokens then, so either it
        # has freed this one, and somebody may have it by now, or we take it back.
        if not at_cas32(&c.dispatch.token[i], <uint32_t>r + 1, mine):
            return True
        r = pop_bit(c.dispatch.resume)
    return False


cdef bint hand_over(Ctx *c, uint32_t i) noexcept nogil:
    """Give token i, which is this process's, to whoever has a better claim."""
    if give_to_resuming(c, i):
        return True
    if node_takes(c):
        PR_POINT(c, POINT_NODE_CHOSEN)
        at_store32(&c.dispatch.token[i], NODE + 1)
        ring_node(c)
        return True
    return False


cdef bint token_wanted(Ctx *c) noexcept nogil:
    """Whether a worker between two tasks must give its token away first."""
    return at_load32(&c.dispatch.node_wants) != 0 or any_bit(c.dispatch.resume)


cdef void token_release(Ctx *c) noexcept nogil:
    cdef uint32_t i = c.me.token
    if i == 0:
        return
    i -= 1
    c.me.token = 0
    while True:
        if hand_over(c, i):
            return
        at_store32(&c.dispatch.token[i], 0)
        PR_POINT(c, POINT_TOKEN_FREED)
        # Somebody may have asked between the look and the store.
        if not token_wanted(c) or not at_cas32(&c.dispatch.token[i], 0, c.self + 1):
            return


cdef bint adopt_token(Ctx *c) noexcept nogil:
    """Take notice of a token that somebody gave this process and died before saying so."""
    cdef uint32_t i
    for i in range(c.head.num_tokens):
        if at_load32(&c.dispatch.token[i]) == c.self + 1:
            c.me.token = i + 1
            return True
    return False


cdef void drop_strays(Ctx *c) noexcept nogil:
    """Before parking: free tokens that this process was given over and above the one it used."""
    while c.me.token == 0 and adopt_token(c):
        token_release(c)


cdef inline bint all_lent(Ctx *c) noexcept nogil:
    """Whether actors and placement groups have every token, for as long as they live."""
    return at_load32(&c.dispatch.lent) >= c.head.num_tokens


cdef bint token_resume(Ctx *c, int64_t timeout_ns) noexcept nogil:
    """Get a token back after blocking; before any new task starts.  False after the timeout.

    Where no token is going to come the task goes on without one: those who have them may well wait
    for it.
    """
    cdef uint32_t seen, idle_rounds = 0
    cdef int64_t end = now_ns() + timeout_ns
    if c.me.token:
        return True     # a wait inside a wait, in a signal handler or a destructor, has it back
    while True:
        if token_take(c):
            return True
        if all_lent(c):
            return True
        seen = at_load32(&c.me.wake)
        at_store32(&c.me.token, 0)
        set_bit(c.dispatch.resume, c.self)
        if token_free(c) and clear_bit(c.dispatch.resume, c.self):
            continue
        while at_load32(&c.me.token) == 0:
            at_store32(&c.me.parked, 1)
            futex_wait(&c.me.wake, seen, RESUME_RETRY_NS)
            at_store32(&c.me.parked, 0)
            seen = at_load32(&c.me.wake)
            if at_load32(&c.me.token) != 0 or adopt_token(c):
                break
            if at_load32(&c.dispatch.stopping):
                return False
            if all_lent(c) and clear_bit(c.dispatch.resume, c.self):
                return True
            if now_ns() > end and clear_bit(c.dispatch.resume, c.self):
                return False
            if token_free(c) and clear_bit(c.dispatch.resume, c.self):
                break
            idle_rounds += 1
            if idle_rounds % ASK_AGAIN == 0:
                # Whoever took the bit died, or is stopped, before it gave the token: ask again.
                set_bit(c.dispatch.resume, c.self)
        if at_load32(&c.me.token) != 0:
            clear_bit(c.dispatch.resume, c.self)
            return True


cdef uint32_t tokens_for_node(Ctx *c, uint32_t n) noexcept nogil:
    """The node takes up to n free tokens."""
    cdef uint32_t i, got = 0
    for i in range(c.head.num_tokens):
        if got == n:
            break
        if at_cas32(&c.dispatch.token[i], 0, NODE + 1):
            got += 1
    return got


cdef uint32_t tokens_from_node(Ctx *c, uint32_t n) noexcept nogil:
    """The node gives n of its tokens back."""
    cdef uint32_t i, given = 0
    for i in range(c.head.num_tokens):
        if given == n:
            break
        if at_load32(&c.dispatch.token[i]) == NODE + 1:
            if not give_to_resuming(c, i):
                at_store32(&c.dispatch.token[i], 0)
            given += 1
    if given and queue_more(c):
        announce(c)
    return given


cdef void start_one(Ctx *c) noexcept nogil:
    cdef int p = pop_idle(c)
    if p >= 0:
        PR_POINT(c, POINT_IDLE_CHOSEN)
        at_cas32(&c.dispatch.searcher, 0, <uint32_t>p + 1)
        wake_process(c, <uint32_t>p)
    elif at_xchg32(&c.dispatch.spawn_wanted, 1) == 0:
        PR_POINT(c, POINT_SPAWN_ASKED)
        ring_node(c)


cdef void announce(Ctx *c) noexcept nogil:
    """Work has become ready: see to it that somebody looks."""
    if at_load32(&c.dispatch.searcher) != 0 or not token_free(c):
        return
    start_one(c)


cdef void rescue(Ctx *c) noexcept nogil:
    """The same without trusting hints or the searcher, who may be dead or stopped; or whoever has
    asked for a worker, and may not have come to ring."""
    if queue_visible_slow(c) and token_free(c):
        start_one(c)
        if at_load32(&c.dispatch.spawn_wanted):
            ring_node(c)


cdef bint alone_on_cpu(Ctx *c) noexcept nogil:
    """Whether spinning makes sense: not if another process of ours, which may be the very one that
    is waited for, was last seen on this CPU."""
    cdef uint32_t p, here = cpu_here()
    at_store_relaxed32(&c.me.cpu, here)
    for p in range(at_load_relaxed32(&c.head.procs_high)):
        if p != c.self and at_load_relaxed32(&c.procs[p].cpu) == here:
            return False
    return True


cdef void about_to_search(Ctx *c) noexcept nogil:
    """Before a worker seals a result: it looks for work next, so nobody need be woken for what the
    seal makes ready, or for what the one that waited for it submits at once."""
    if c.me.token and at_load32(&c.dispatch.searcher) == 0:
        at_cas32(&c.dispatch.searcher, 0, c.self + 1)


cdef void stop_searching(Ctx *c) noexcept nogil:
    if at_load_relaxed32(&c.dispatch.searcher) == c.self + 1:
        at_store32(&c.dispatch.searcher, 0)


cdef uint64_t search(Ctx *c) noexcept nogil:
    """Look for work while holding a token; the first look is everybody's, only one spins."""
    cdef uint64_t task = queue_claim(c)
    cdef int64_t end = 0
    cdef int _
    cdef uint32_t s
    if task == 0:
        s = at_load32(&c.dispatch.searcher)
        if s != c.self + 1 and (s != 0 or not at_cas32(&c.dispatch.searcher, 0, c.self + 1)):
            return 0
        end = now_ns() + SPIN_NS
        while task == 0:
            if alone_on_cpu(c):
                for _ in range(16):
                    cpu_pause()
            else:
                # Not parking: who submits next would have to wake us, or another worker.
                cpu_yield()
            task = queue_claim(c)
            if task or now_ns() > end or token_wanted(c) or at_load64(&c.me.assigned):
                break
            if at_load_relaxed32(&c.dispatch.stopping):
                break
    if at_load_relaxed32(&c.dispatch.searcher) == c.self + 1:
        at_store32(&c.dispatch.searcher, 0)
        if task and queue_more(c):
            announce(c)
    return task


cdef void next_assigned(Ctx *c, uint64_t *assigned, int64_t timeout_ns) noexcept nogil:
    """A dedicated worker's wait for work: for what the node gives it, and nothing else."""
    cdef uint32_t seen
    cdef int64_t end = now_ns() + timeout_ns
    cdef int64_t left
    assigned[0] = 0
    drop_strays(c)
    while True:
        seen = at_load32(&c.me.wake)
        if at_load32(&c.dispatch.stopping):
            return
        # From here on the node may give it another task; before, it might have been about to end.
        at_cas64(&c.me.assigned, 0, ASSIGNED_OPEN)
        if at_load64(&c.me.assigned) != ASSIGNED_OPEN:
            assigned[0] = at_xchg64(&c.me.assigned, 0)
            return
        left = end - now_ns()
        if left <= 0 or at_load32(&c.dispatch.sweep) != c.swept:
            return
        at_store32(&c.me.parked, 1)
        at_store_relaxed32(&c.me.parked_on, cpu_here())
        at_store_relaxed32(&c.me.cpu, 0)
        futex_wait(&c.me.wake, seen, left)
        at_store_relaxed32(&c.me.cpu, cpu_here())
        at_store32(&c.me.parked, 0)


cdef uint64_t next_task(Ctx *c, uint64_t *assigned, int64_t timeout_ns) noexcept nogil:
    """The worker's wait for work.

    Returns a claimed task (this process then holds a token), or 0 with `assigned` set to a task
    that the node gave it with resources of its own, or 0 and nothing at the timeout, the end of the
    session, or when it is asked to sweep.
    """
    cdef uint64_t task
    cdef uint32_t seen
    cdef int64_t end = 0    # set when it comes to waiting: the clock costs more than a look
    cdef int64_t left
    assigned[0] = 0
    if c.me.role == ROLE_DEDICATED:
        next_assigned(c, assigned, timeout_ns)
        return 0
    while True:
        if at_load32(&c.dispatch.stopping):
            stop_searching(c)
            token_release(c)
            return 0
        if at_load_relaxed64(&c.me.assigned):
            stop_searching(c)
            token_release(c)
            assigned[0] = at_xchg64(&c.me.assigned, 0)
            if assigned[0]:
                return 0
        if c.me.token and token_wanted(c):
            token_release(c)
        if c.me.token or token_take(c):
            task = search(c)
            if task:
                return task
            token_release(c)
        else:
            stop_searching(c)
        drop_strays(c)
        seen = at_load32(&c.me.wake)
        if at_load32(&c.dispatch.sweep) != c.swept:
            return 0        # somebody needs room: the caller lets go of what it can
        # Park.  The bit first, then the look: a push that saw no idle worker is seen here.
        set_bit(c.dispatch.idle, c.self)
        if ((queue_visible(c) and at_load32(&c.dispatch.searcher) == 0 and token_free(c))
                or at_load32(&c.dispatch.stopping)) and clear_bit(c.dispatch.idle, c.self):
            # As the searcher, who sees to it that what it leaves finds somebody: those who queued
            # it may have relied on the last searcher, who was about to give up.
            at_cas32(&c.dispatch.searcher, 0, c.self + 1)
            continue
        if end == 0:
            end = now_ns() + timeout_ns
        while True:
            left = end - now_ns()
            if left <= 0:
                if clear_bit(c.dispatch.idle, c.self):
                    return 0
                left = RESUME_RETRY_NS      # somebody took the bit: the wake-up is on its way
            at_store32(&c.me.parked, 1)
            at_store_relaxed32(&c.me.parked_on, cpu_here())
            at_store_relaxed32(&c.me.cpu, 0)
            futex_wait(&c.me.wake, seen, left)
            at_store_relaxed32(&c.me.cpu, cpu_here())
            at_store32(&c.me.parked, 0)
            if at_load32(&c.me.wake) != seen or at_load64(&c.me.assigned):
                break
        clear_bit(c.dispatch.idle, c.self)
