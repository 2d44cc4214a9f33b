/* Copying large blocks; no Python object is touched.  Call it without the GIL.
 *
 * Three things make it faster than memcpy (figures: docs/performance.md):
 *
 * - Several threads.  They take pieces in turn, so that one that starts late, or shares its CPU,
 *   keeps nobody waiting.  Started for each copy: a parked thread would have to survive forks and be
 *   ended with the session, to save 30 us of some milliseconds.
 * - Stores past the cache, which fetch no line only to overwrite it.  glibc does so from three
 *   quarters of the largest cache on, which may be the whole host's: 250 MB.
 * - New pages of the arena.  A page fault for each costs more than the copy.  pwrite makes pages by
 *   the batch and copies at once, but holds the file's lock; whoever comes meanwhile has pages made
 *   and mapped by the batch (MADV_POPULATE_WRITE) and copies then.  So nobody ever waits for that
 *   lock, and both ways are used at the same time.
 */
#ifndef PYRAY_BULKCOPY_H
#define PYRAY_BULKCOPY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "arena.h"
#include "atomics.h"
#include "layout.h"
#include "points.h"

#ifndef MADV_POPULATE_WRITE         /* Linux 5.14; older ones refuse them, and pages come by faults */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* From here on the state of the arena's pages is looked at. */
#define PYRAY_PAGES_MIN ((size_t)128 << 10)
/* From here on several threads, and stores past the cache: the threads' start would cost more than
 * they bring, and what is smaller its reader may find in the cache. */
#define PYRAY_BULK_MIN ((size_t)8 << 20)
#define PYRAY_BULK_THREADS 4
/* What a thread takes at a time: whole units, 0.05 to 0.7 ms. */
#define PYRAY_BULK_PIECE ((size_t)1 << 20)

typedef struct {
    char *dst;
    const char *src;
    size_t n;
    size_t skew;                /* dst's distance from the piece's boundary before it */
    size_t next;                /* bytes after that boundary that have been taken */
    const pyray_arena *arena;   /* NULL: dst is not in it, or nothing need be known of pages */
    int by_file;                /* pwrite may be used */
    int past_cache;
} pyray_bulk_job;

static void pyray_bulk_move(char *dst, const char *src, size_t n, int past_cache)
{
#if defined(__SSE2__)
    if (past_cache && n >= 4096) {
        size_t head = (size_t)-(uintptr_t)dst & 63, i;
        memcpy(dst, src, head);
        dst += head;
        src += head;
        n -= head;
        for (i = 0; i + 64 <= n; i += 64) {
            __m128i a = _mm_loadu_si128((const __m128i *)(src + i));
            __m128i b = _mm_loadu_si128((const __m128i *)(src + i + 16));
            __m128i c = _mm_loadu_si128((const __m128i *)(src + i + 32));
            __m128i d = _mm_loadu_si128((const __m128i *)(src + i + 48));
            _mm_stream_si128((__m128i *)(dst + i), a);
            _mm_stream_si128((__m128i *)(dst + i + 16), b);
            _mm_stream_si128((__m128i *)(dst + i + 32), c);
            _mm_stream_si128((__m128i *)(dst + i + 48), d);
        }
        _mm_sfence();   /* these stores know no order: before the seal they are to be there */
        memcpy(dst + i, src + i, n - i);
        return;
    }
#else
    (void)past_cache;
#endif
    memcpy(dst, src, n);
}

/* Copy into pages that this process has not mapped, as far as it knows.  Returns their new state. */
static uint8_t pyray_bulk_fill(const pyray_bulk_job *job, char *dst, const char *src, size_t n,
                               uint8_t state)
{
    const pyray_arena *arena = job->arena;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first;
    size_t done = 0;
    ssize_t got;

    if (state == PAGES_NEW && job->by_file && at_cas32(arena->filler, 0, arena->self + 1)) {
        do {
            got = pwrite(arena->fd, src + done, n - done,
                         (off_t)(arena->at + (uint64_t)(dst + done - arena->low)));
            if (got > 0)
                done += (size_t)got;
        } while (got > 0 && done < n);
        at_cas32(arena->filler, arena->self + 1, 0);
        if (done == n)
            return PAGES_UNKNOWN;
        /* No memory, a limit on the size of files, a source that cannot be read: what follows copes
         * with it, or dies of it as memcpy always has. */
    }
    first = (uintptr_t)(dst + done) & ~(page - 1);
    (void)madvise((void *)first, (((uintptr_t)(dst + n) + page - 1) & ~(page - 1)) - first,
                  /* Pages that exist are mapped 16 at a time by a read, and shared memory writable
                   * then: half the price of a write to each. */
                  state == PAGES_NEW ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    /* Through the cache, where these pages have just been cleared. */
    memcpy(dst + done, src + done, n - done);
    return PAGES_MAPPED;
}

/* One piece: runs of units of which the same is known. */
static void pyray_bulk_piece(const pyray_bulk_job *job, char *dst, const char *src, size_t n)
{
    const pyray_arena *arena = job->arena;
    size_t unit, last, end, len;
    uint8_t state;

    if (!arena) {
        pyray_bulk_move(dst, src, n, job->past_cache);
        return;
    }
    while (n) {
        unit = (size_t)(dst - arena->low) / PR_UNIT;
        last = ((size_t)(dst - arena->low) + n - 1) / PR_UNIT;
        state = arena->pages[unit];
        end = unit + 1;
        while (end <= last && arena->pages[end] == state)
            end++;
        len = end * PR_UNIT - (size_t)(dst - arena->low);
        if (len > n)
            len = n;
        if (state == PAGES_MAPPED)
            pyray_bulk_move(dst, src, len, job->past_cache);
        else
            memset(arena->pages + unit, pyray_bulk_fill(job, dst, src, len, state), end - unit);
        dst += len;
        src += len;
        n -= len;
    }
}

static void *pyray_bulk_run(void *arg)
{
    pyray_bulk_job *job = (pyray_bulk_job *)arg;
    size_t from, to, total = job->skew + job->n;

    for (;;) {
        from = __atomic_fetch_add(&job->next, PYRAY_BULK_PIECE, __ATOMIC_RELAXED);
        if (from >= total)
            return NULL;
        if (job->arena && from >= total / 2
                && __builtin_expect(((pr_header *)job->arena->head)->point == POINT_PUT_HALF_COPIED, 0))
            pr_point_hit((pr_header *)job->arena->head, *job->arena->role);
        to = total - from > PYRAY_BULK_PIECE ? from + PYRAY_BULK_PIECE : total;
        if (from < job->skew)
            from = job->skew;
        pyray_bulk_piece(job, job->dst + (from - job->skew), job->src + (from - job->skew),
                         to - from);
    }
}

/* Whether the descriptor is still the arena's: code of the user's may have closed it, and the number
 * may stand for a file of theirs by now. */
static int pyray_bulk_same_file(const pyray_arena *arena)
{
    struct stat st;
    return fstat(arena->fd, &st) == 0 && (uint64_t)st.st_dev == arena->device
           && (uint64_t)st.st_ino == arena->inode;
}

/* Make and map the pages of n bytes of the session's memory that nobody but this process may touch
 * yet, and that are to be zero.  `from_low`: their distance from the payload, which they lie before. */
static inline void pyray_make_pages(const pyray_arena *arena, size_t from_low, size_t n)
{
    static const char zeros[16384];
    char *p = arena->low - from_low;
    uint64_t at = arena->at - from_low;
    size_t done = 0;
    ssize_t got;

    if (pyray_bulk_same_file(arena) && at_cas32(arena->filler, 0, arena->self + 1)) {
        do {
            got = pwrite(arena->fd, zeros, n - done < sizeof(zeros) ? n - done : sizeof(zeros),
                         (off_t)(at + done));
            if (got > 0)
                done += (size_t)got;
        } while (got > 0 && done < n);
        at_cas32(arena->filler, arena->self + 1, 0);
    }
    (void)madvise(p, n, done == n ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

static inline void pyray_bulk_copy(const pyray_arena *arena, void *to, const void *src, size_t n)
{
    char *dst = (char *)to;
    pthread_t thread[PYRAY_BULK_THREADS];
    pthread_attr_t attr;
    cpu_set_t cpus;
    pyray_bulk_job job;
    int count = 1, have_attr, i;

    if (n < PYRAY_PAGES_MIN) {
        if (n)
            memcpy(dst, src, n);
        return;
    }
    if (!arena->low || !arena->pages || dst < arena->low || dst + n > arena->high)
        arena = NULL;
    job.dst = dst;
    job.src = (const char *)src;
    job.n = n;
    job.skew = (arena ? (uintptr_t)(dst - arena->low) : (uintptr_t)dst) % PYRAY_BULK_PIECE;
    job.next = 0;
    job.arena = arena;
    job.by_file = arena != NULL && pyray_bulk_same_file(arena);
    job.past_cache = n >= PYRAY_BULK_MIN;
    if (n < PYRAY_BULK_MIN) {
        pyray_bulk_run(&job);
        return;
    }
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
        count = CPU_COUNT(&cpus);
    else        /* more CPUs than the mask has room for */
        count = PYRAY_BULK_THREADS;
    if (count > PYRAY_BULK_THREADS)
        count = PYRAY_BULK_THREADS;
    have_attr = pthread_attr_init(&attr) == 0;
    if (have_attr)
        (void)pthread_attr_setstacksize(&attr, (size_t)256 << 10);
    /* Where no more threads are to be had, those that there are do it all. */
    for (i = 0; i < count - 1; i++)
        if (pthread_create(&thread[i], have_attr ? &attr : NULL, pyray_bulk_run, &job))
            break;
    pyray_bulk_run(&job);
    while (i--)
        pthread_join(thread[i], NULL);
    if (have_attr)
        pthread_attr_destroy(&attr);
}

#endif
