/* Atomics, futexes and clocks: the only C that the Cython core leans on.
 *
 * Everything is sequentially consistent unless its name says otherwise.  The protocols of this
 * core are of Dekker's kind (publish, then look whether somebody waits), which acquire/release
 * alone does not order; on x86-64 a locked instruction pays for both anyway.
 */
#ifndef PYRAY_ATOMICS_H
#define PYRAY_ATOMICS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PR_DEFINE(T, S)                                                                         \
    static inline T at_load##S(const T *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }      \
    static inline T at_load_relaxed##S(const T *p)                                               \
    { return __atomic_load_n(p, __ATOMIC_RELAXED); }                                             \
    static inline void at_store##S(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }      \
    static inline void at_store_relaxed##S(T *p, T v)                                            \
    { __atomic_store_n(p, v, __ATOMIC_RELAXED); }                                                \
    static inline void at_store_release##S(T *p, T v)                                            \
    { __atomic_store_n(p, v, __ATOMIC_RELEASE); }                                                \
    static inline T at_xchg##S(T *p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }\
    static inline T at_add##S(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
    static inline T at_or##S(T *p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }    \
    static inline T at_and##S(T *p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }  \
    static inline int at_cas##S(T *p, T expected, T desired)                                     \
    {                                                                                            \
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST,           \
                                           __ATOMIC_SEQ_CST);                                    \
    }

PR_DEFINE(uint64_t, 64)
PR_DEFINE(uint32_t, 32)
PR_DEFINE(uint16_t, 16)
PR_DEFINE(uint8_t, 8)
#undef PR_DEFINE

static inline void at_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Let whoever else is ready run on this CPU. */
static inline void cpu_yield(void) { sched_yield(); }

/* 1 + the CPU that this thread runs on; a vDSO call, some 10 ns. */
static inline uint32_t cpu_here(void) { return (uint32_t)sched_getcpu() + 1; }

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits while *word == expected, timeout_ns at most (negative: no limit).  Returns 0 or -errno.
 * Not FUTEX_PRIVATE: the word lies in memory shared between processes. */
static inline int futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    struct timespec t, *tp = 0;
    if (timeout_ns >= 0) {
        t.tv_sec = timeout_ns / 1000000000;
        t.tv_nsec = timeout_ns % 1000000000;
        tp = &t;
    }
    return syscall(SYS_futex, word, FUTEX_WAIT, expected, tp, 0, 0) == 0 ? 0 : -errno;
}

static inline void futex_wake(uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE, n, 0, 0, 0);
}

#endif
