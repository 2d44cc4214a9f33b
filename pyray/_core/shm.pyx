"""The session's memfd and its spill file: creating, mapping, and the pointers into them.

The file has no name, so the kernel frees it with its last user, however that one ends.  It is
mapped twice: once writable, and its payload once more read-only, which is what users' arrays point
into: an object in the store is immutable because the MMU says so.

Behind the payload, in both mappings, lies the spill file, which has no name either.  So an object
that has moved there is at another offset, and nothing else about it is different.
"""

from libc.errno cimport EINVAL, errno
from libc.string cimport memcpy, memset, strerror
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ,
    PROT_WRITE, mmap, munmap,
)
from posix.unistd cimport close, ftruncate
from pyray._core.arena cimport arena, pyray_arena
from pyray._core.layout cimport *

import os

from pyray._core.errors import SessionError

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *name, unsigned int flags)
    int MFD_CLOEXEC
    int MFD_ALLOW_SEALING
    int MAP_NORESERVE
    int madvise(void *address, size_t length, int advice)
    int MADV_DONTDUMP

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int cmd, ...)
    int F_ADD_SEALS
    int F_SEAL_SHRINK
    int F_SEAL_GROW
    int F_SEAL_SEAL

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE

cdef extern from "<sys/stat.h>" nogil:
    int fchmod(int fd, unsigned int mode)

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, ...)
    int PR_SET_PDEATHSIG
    int PR_SET_CHILD_SUBREAPER
    int PR_SET_NAME

cdef extern from "<signal.h>" nogil:
    int SIGKILL

cdef enum:
    MFD_NOEXEC_SEAL = 8     # the C library's headers may be older than the kernel
    NODE = 1                # the node's process slot

cdef Ctx _ctx
cdef Mapping _mapping = None
cdef int _fork_fd = -1       # of the session's file
memset(&_ctx, 0, sizeof(Ctx))
_ctx.bell_fd = -1
_ctx.spill.fd = -1


cdef Ctx *get_ctx() noexcept nogil:
    return &_ctx


cdef Mapping current_mapping():
    return _mapping


cdef void _after_fork_in_child() noexcept nogil:
    # A flag rather than getpid() per call: the check is then a load.  The node's own forks of
    # workers clear it again in adopt().
    if not _ctx.attached:
        return
    _ctx.forked = True
    if _ctx.self == NODE:
        return      # the child is a worker
    # The child holds nothing: what shared arrays look at here may be another object's soon. So it
    # gets the pages as they are, and writes to copies of its own. (If this fails, that is lost.)
    mmap(_ctx.payload, _ctx.head.n_units * PR_UNIT, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, _fork_fd, _ctx.head.off_payload)
    if pyray_spill_there(&_ctx.spill):
        mmap(_ctx.payload + _ctx.head.n_units * PR_UNIT, _ctx.head.n_spill_units * PR_UNIT,
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, _ctx.spill.fd, 0)


pthread_atfork(NULL, NULL, _after_fork_in_child)


cdef class Mapping:
    def __cinit__(self, int fd, size_t total, size_t payload_offset, size_t payload_bytes,
                  int spill_fd, size_t spill_bytes):
        self.fd = self.spill_fd = -1
        self.total = total
        self.payload_offset = payload_offset
        self.payload_bytes = payload_bytes
        self.spill_bytes = spill_bytes
        self.base = map_both(fd, 0, total, spill_fd, spill_bytes, PROT_READ | PROT_WRITE)
        self.readonly_base = map_both(fd, payload_offset, payload_bytes, spill_fd, spill_bytes,
                                      PROT_READ)
        self.fd = fd
        self.spill_fd = spill_fd

    def __dealloc__(self):
        # In a forked child too: it has its own copy of the mapping.
        if self.readonly_base != NULL:
            munmap(self.readonly_base, self.payload_bytes + self.spill_bytes)
        if self.base != NULL:
            munmap(self.base, self.total + self.spill_bytes)
        if self.fd >= 0:
            close(self.fd)
        if self.spill_fd >= 0:
            close(self.spill_fd)

    cdef int file_of(self, uint64_t off):
        """Descriptor of the file that holds what lies at this offset of the payload."""
        return self.fd if off < self.payload_bytes else self.spill_fd

    cdef uint64_t place_in_file(self, uint64_t off):
        """And where in it."""
        if off < self.payload_bytes:
            return self.payload_offset + off
        return off - self.payload_bytes


cdef char *map_both(int fd, uint64_t at, size_t n, int spill_fd, size_t spill_bytes,
                    int protection) except NULL:
    """Map a part of the memory, and the spill file right behind it."""
    # Room for both first, so that nobody else's mapping comes to lie in between.
    cdef char *base = <char *>mmap(NULL, n + spill_bytes, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if base != <char *>MAP_FAILED:
        if mmap(base, n, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
                at) != MAP_FAILED and (spill_bytes == 0 or mmap(
                    base + n, spill_bytes, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                    spill_fd, 0) != MAP_FAILED):
            # One process's crash is not to leave everybody's objects in a file.
            madvise(base, n + spill_bytes, MADV_DONTDUMP)
            return base
        error = errno
        munmap(base, n + spill_bytes)
    else:
        error = errno
    raise MemoryError(
        f"mapping {n} bytes of shared memory"
        + (f" and {spill_bytes} of the spill file" if spill_bytes else "")
        + ("" if protection & PROT_WRITE else " read-only")
        + f" failed: {strerror(error).decode()}")


def can_map(uint64_t nbytes):
    """Whether there is address space for so many bytes more."""
    cdef void *room = mmap(NULL, nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0)
    if room == MAP_FAILED:
        return False
    munmap(room, nbytes)
    return True


cdef uint64_t _round(uint64_t n, uint64_t to) noexcept nogil:
    return (n + to - 1) // to * to


def create(uint64_t payload_bytes, uint64_t record_bytes, int num_cpus, uint64_t spill_bytes=0):
    """Create the session's memory and return its file descriptor, sized but empty.

    Parameters
    ----------
    payload_bytes : int
        Room for objects; rounded up to whole units of 16 KiB.
    record_bytes : int
        Room for the records of tasks and objects: virtual until used, 2 GiB at most.
    num_cpus : int
        CPU tokens, 256 at most.
    spill_bytes : int
        Size of the spill file, of which whole units of 16 KiB are used.

    Raises
    ------
    OSError
        The kernel refused the file.
    """
    cdef pr_header h
    cdef uint64_t at
    memset(&h, 0, sizeof(h))
    cdef uint64_t page = max(sysconf(_SC_PAGESIZE), 4096)
    # The spill file begins with a page of its own, where pages are larger than units too.
    cdef uint64_t n_units = _round(_round(max(1, payload_bytes), PR_UNIT), page) // PR_UNIT
    cdef uint64_t n_all = n_units + spill_bytes // PR_UNIT
    cdef uint64_t n_chunks = max(4, record_bytes // PR_CHUNK_BYTES)
    if n_chunks > (<uint64_t>1 << 24) // PR_CHUNK_GRANULES:
        n_chunks = (<uint64_t>1 << 24) // PR_CHUNK_GRANULES
    h.magic = PR_MAGIC
    h.layout_hash = PR_LAYOUT_HASH
    root = os.urandom(28)
    memcpy(&h.nonce, <const char *>root, 8)
    memcpy(h.root_id, <const char *>root + 8, 20)
    h.n_units = n_units
    h.freed_low = n_units
    h.n_spill_units = n_all - n_units
    h.spill_low = h.spill_high = n_units
    h.n_chunks = n_chunks
    h.num_tokens = num_cpus
    h.chunks_used = 1    # slot numbers below 512 never name a record
    h.funcs_used = 1
    h.procs_high = 2
    at = 8192
    h.off_procs = at
    at = _round(at + sizeof(pr_proc) * PR_MAX_PROCS, 4096)
    h.off_funcs = at
    at = _round(at + sizeof(pr_func) * PR_MAX_FUNCS, 4096)
    h.off_actors = at
    at = _round(at + sizeof(pr_actor) * PR_MAX_ACTORS, 4096)
    h.off_mailboxes = at
    at = _round(at + sizeof(pr_mailbox) * PR_MAX_ACTORS * PR_MAX_PROCS, 4096)
    h.off_events = at
    at = _round(at + sizeof(pr_events) * PR_MAX_PROCS, 4096)
    h.off_chunks = at
    at = _round(at + sizeof(pr_chunk) * n_chunks, 4096)
    h.off_records = at
    at = _round(at + n_chunks * PR_CHUNK_BYTES, 4096)
    h.off_names = at
    at = _round(at + n_chunks * PR_CHUNK_GRANULES * sizeof(pr_name), 4096)
    h.off_units = at
    at = _round(at + n_all * 5, 4096)
    h.off_slabs = at
    at = _round(at + sizeof(pr_slab) * n_all, 4096)
    h.off_runs = at
    at = _round(at + sizeof(pr_run) * n_units, page)
    h.off_payload = at
    at = at + n_units * PR_UNIT
    h.total_bytes = at
    # Not executable, ever: some systems allow no other kind. Kernels before 6.3 don't know it.
    cdef int fd = memfd_create("pyray", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    if fd < 0 and errno == EINVAL:
        fd = memfd_create("pyray", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    if fd < 0:
        raise OSError(errno, f"memfd_create failed: {strerror(errno).decode()}")
    # So that nobody pulls pages away under the others, which would kill them all (SIGBUS).
    # No F_SEAL_FUTURE_WRITE: it forbids punching holes and new writable mappings.
    if (fchmod(fd, 0o600) < 0 or ftruncate(fd, at) < 0
            or fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0):
        error = errno
        close(fd)
        raise OSError(error, f"sizing the session's memory to {at} bytes failed: "
                             f"{strerror(error).decode()}")
    os.pwrite(fd, (<char *>&h)[:sizeof(h)], 0)
    return fd


def attach(int fd, uint32_t slot, int spill_fd=-1):
    """Map the files (taking the descriptors over) and become process number `slot` of a session."""
    global _mapping, _fork_fd
    cdef pr_header h
    raw = os.pread(fd, sizeof(h), 0)
    if len(raw) != sizeof(h):
        raise ValueError("this descriptor does not hold a pyray session")
    memcpy(&h, <const char *>raw, sizeof(h))
    if h.magic != PR_MAGIC or h.layout_hash != PR_LAYOUT_HASH:
        raise ValueError("this session's memory was made by another build of pyray")
    try:
        _mapping = Mapping(fd, h.total_bytes, h.off_payload, h.n_units * PR_UNIT, spill_fd,
                           h.n_spill_units * PR_UNIT if spill_fd >= 0 else 0)
    except MemoryError:
        close(fd)
        if spill_fd >= 0:
            close(spill_fd)
        raise
    _fork_fd = fd
    cdef char *b = _mapping.base
    _ctx.base = b
    _ctx.head = <pr_header *>b
    _ctx.dispatch = <pr_dispatch *>(b + 4096)
    _ctx.procs = <pr_proc *>(b + h.off_procs)
    _ctx.funcs = <pr_func *>(b + h.off_funcs)
    _ctx.actors = <pr_actor *>(b + h.off_actors)
    _ctx.mailboxes = <pr_mailbox *>(b + h.off_mailboxes)
    _ctx.events = <pr_events *>(b + h.off_events)
    _ctx.chunks = <pr_chunk *>(b + h.off_chunks)
    _ctx.records = b + h.off_records
    _ctx.names = <pr_name *>(b + h.off_names)
    _ctx.units = <uint32_t *>(b + h.off_units)
    _ctx.touched = <uint8_t *>(b + h.off_units + (h.n_units + h.n_spill_units) * 4)
    _ctx.slabs = <pr_slab *>(b + h.off_slabs)
    _ctx.runs = <pr_run *>(b + h.off_runs)
    pyray_spill_know(&_ctx.spill, spill_fd)
    pyray_spill_know(&_ctx.memory, fd)
    _ctx.payload = b + h.off_payload
    _ctx.readonly = _mapping.readonly_base
    stat = os.fstat(fd)
    cdef pyray_arena *a = arena()
    a.low = _ctx.payload
    a.high = _ctx.payload + h.n_units * PR_UNIT
    a.end = a.high + (h.n_spill_units * PR_UNIT if spill_fd >= 0 else 0)
    a.at = h.off_payload
    a.fd = fd
    a.device = stat.st_dev
    a.inode = stat.st_ino
    a.filler = &_ctx.dispatch.filler
    a.head = _ctx.head
    _ctx.epoch += 1
    _ctx.broken = False
    _ctx.attached = True
    adopt(slot)


def adopt(uint32_t slot):
    """Be process number `slot` from now on: after attach, or in a freshly forked worker."""
    _ctx.self = slot
    arena().self = slot
    _ctx.me = &_ctx.procs[slot]
    arena().role = &_ctx.me.role
    _ctx.forked = False
    if slot == NODE:
        _ctx.me.role = ROLE_NODE    # a worker's is set by the node, before the fork
    _ctx.me.pid = os.getpid()
    at_store32(&_ctx.me.status, PROC_ALIVE)


def detach():
    """Forget the session.  The memory stays mapped while views into it live."""
    global _mapping
    _ctx.attached = False
    _ctx.broken = False
    _ctx.base = NULL
    _ctx.spill.fd = -1
    arena().low = arena().high = arena().end = NULL
    _mapping = None


def epoch():
    """Number of sessions that this process has been attached to."""
    return _ctx.epoch


def forked():
    """Whether this process was forked by user code from one that is attached."""
    return bool(_ctx.forked)


def root_id():
    """The session's 20 random bytes, which are the id of the driver's root task."""
    if not _ctx.attached:
        raise SessionError("there is no session in this process any more")
    return (<const char *>_ctx.head.root_id)[:20]


def self_slot():
    """This process's number in the session."""
    return _ctx.self


# ---- the kernel's help with lives and deaths -----------------------------------------------

def die_with_parent():
    """Have the kernel kill this process when the thread that forked it ends."""
    prctl(PR_SET_PDEATHSIG, <unsigned long>SIGKILL)


def adopt_orphans():
    """Become the parent of grandchildren whose parents die (a subreaper)."""
    prctl(PR_SET_CHILD_SUBREAPER, <unsigned long>1)


def set_process_name(str name):
    """The name that ps and top show, 15 characters."""
    cdef bytes raw = name.encode()
    prctl(PR_SET_NAME, <const char *>raw)


def inflight():
    """Calls of this process that are in the middle of something with the session's memory."""
    return _ctx.inflight


def retire():
    """The session is over but cannot be let go of, since a call is still in the middle of it."""
    _ctx.broken = True


def attached():
    """Whether this process is in a session."""
    return bool(_ctx.attached)
