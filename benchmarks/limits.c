/* What the machine allows: two processes that hand a word in shared memory to and fro.
 *
 * Parked, each waits in the kernel (futex); spinning, each watches the word.  Each has a core of its
 * own: on one core a hand-over would be a mere switch between processes.  Both give up after LIMIT
 * seconds, since a spinner that has to share its core with somebody is slow without end. */

#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT 0.5

typedef _Atomic unsigned word;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void hand_over(word *turn, unsigned value, int parked)
{
    atomic_store(turn, value);
    if (parked)
        syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await(word *turn, unsigned value, int parked)
{
    unsigned seen;
    while ((seen = atomic_load(turn)) != value) {
        if (parked)
            syscall(SYS_futex, turn, FUTEX_WAIT, seen, NULL, NULL, 0);
        else
            __builtin_ia32_pause();
    }
}

/* Bind the caller to the n-th of the cores that it may use. */
static void bind(const cpu_set_t *usable, int n)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, usable) && n-- == 0) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
        }
}

/* Seconds per round trip, each after a rest of so many microseconds; negative: there could be none. */
double ping_pong(int rounds, int parked, unsigned rest)
{
    word *turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (turn == MAP_FAILED)
        return -1;
    cpu_set_t usable;
    sched_getaffinity(0, sizeof usable, &usable);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child < 0) {
        munmap(turn, 4096);
        return -1;
    }
    if (child == 0) {
        bind(&usable, 1);
        while (getppid() == parent) {
            await(turn, 1, parked);
            hand_over(turn, 0, parked);
        }
        _exit(0);
    }
    bind(&usable, 0);
    int done = 0;
    double start = 0, rested = 0;
    for (int i = -10; i < rounds; i++) {        /* ten to warm up */
        if (i == 0)
            start = now();
        if (rest && i >= 0) {
            double begin = now();
            usleep(rest);
            rested += now() - begin;
        }
        hand_over(turn, 1, parked);
        await(turn, 0, parked);
        if (i >= 0) {
            done++;
            if (now() - start - rested > LIMIT)
                break;
        }
    }
    double elapsed = now() - start;
    sched_setaffinity(0, sizeof usable, &usable);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    munmap(turn, 4096);
    return (elapsed - rested) / done;
}
