/* The payload arena of the session that this process is attached to, as those see it who copy into
 * it.  Private memory; `low` is NULL outside of a session. */
#ifndef PYRAY_ARENA_H
#define PYRAY_ARENA_H

#include <stdint.h>

/* What this process knows of a unit's pages.  All three are guesses: a wrong one costs time. */
enum { PAGES_UNKNOWN = 0,
       PAGES_MAPPED = 1,   /* this process has written them through its mapping */
       PAGES_NEW = 2 };    /* nobody had touched them when this process claimed the unit */

typedef struct {
    char *low, *high;      /* the memory's part of the payload, mapped writable */
    char *end;             /* and the spill file's part, behind it */
    uint64_t at;           /* of `low`, in the file */
    int fd;
    uint64_t device, inode; /* what the descriptor is to stand for */
    uint8_t *pages;        /* PAGES_* per unit, or NULL */
    uint32_t *filler;      /* shared: see pr_dispatch */
    uint32_t self;         /* this process's slot */
    void *head;            /* shared: the header, for kill points */
    const uint32_t *role;  /* shared: this process's */
} pyray_arena;

#endif
