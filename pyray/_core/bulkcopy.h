/* Copying large blocks with several threads; no Python object is touched.
 *
 * One thread moves 7-10 GB/s, the memory bus more than that; below 8 MB the start of the
 * threads would cost more than they bring.  Call it without the GIL.
 */
#ifndef PYRAY_BULKCOPY_H
#define PYRAY_BULKCOPY_H

#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define PYRAY_BULK_MIN ((size_t)8 << 20)
#define PYRAY_BULK_THREADS 4

typedef struct {
    char *dst;
    const char *src;
    size_t n;
} pyray_bulk_part;

static void *pyray_bulk_run(void *arg)
{
    pyray_bulk_part *part = (pyray_bulk_part *)arg;
    memcpy(part->dst, part->src, part->n);
    return NULL;
}

static inline void pyray_bulk_copy(void *dst, const void *src, size_t n)
{
    pthread_t thread[PYRAY_BULK_THREADS];
    int started[PYRAY_BULK_THREADS];
    pyray_bulk_part part[PYRAY_BULK_THREADS];
    pthread_attr_t attr;
    long cpus;
    int count, have_attr, i;
    size_t step, at = 0;

    if (n < PYRAY_BULK_MIN) {
        if (n)
            memcpy(dst, src, n);
        return;
    }
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    count = cpus < 1 ? 1 : cpus > PYRAY_BULK_THREADS ? PYRAY_BULK_THREADS : (int)cpus;
    /* Whole pages each, so that two threads never fault on the same one. */
    step = ((n / (size_t)count) + 4095) & ~(size_t)4095;
    have_attr = pthread_attr_init(&attr) == 0;
    if (have_attr)
        (void)pthread_attr_setstacksize(&attr, (size_t)256 << 10);
    for (i = 0; i < count; i++) {
        size_t len = (i == count - 1 || n - at < step) ? n - at : step;
        part[i].dst = (char *)dst + at;
        part[i].src = (const char *)src + at;
        part[i].n = len;
        at += len;
        started[i] = 0;
    }
    for (i = 1; i < count; i++)
        if (part[i].n)
            started[i] = pthread_create(&thread[i], have_attr ? &attr : NULL,
                                        pyray_bulk_run, &part[i]) == 0;
    pyray_bulk_run(&part[0]);
    for (i = 1; i < count; i++) {
        if (started[i])
            pthread_join(thread[i], NULL);
        else if (part[i].n)      /* no thread to be had: do its share here */
            pyray_bulk_run(&part[i]);
    }
    if (have_attr)
        pthread_attr_destroy(&attr);
}

#endif
