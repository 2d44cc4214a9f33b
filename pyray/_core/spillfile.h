/* The spill file, as those see it who reserve, write and give back its blocks.  It has no name, and
 * every process of the session has it open under the same number as the session's memory. */
#ifndef PYRAY_SPILLFILE_H
#define PYRAY_SPILLFILE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PYRAY_SPILL_PIECE ((uint64_t)4 << 20)   /* what is written at a time */

typedef struct {
    int fd;                 /* -1: there is none */
    uint64_t device, inode; /* what the descriptor is to stand for */
    uint64_t reserve;       /* bytes of the file system that are left free */
    int in_memory;          /* the file system is one in memory: spilling frees none */
} pyray_spill_file;     /* the session's memory is described by one too: it has pages to give back */

/* Whether the descriptor is still the file's: code of the user's may have closed it, and the number
 * may stand for a file of theirs by now, which is not to be written to. */
static inline int pyray_spill_there(const pyray_spill_file *f)
{
    struct stat st;
    return f->fd >= 0 && fstat(f->fd, &st) == 0 && (uint64_t)st.st_dev == f->device
           && (uint64_t)st.st_ino == f->inode;
}

static inline void pyray_spill_know(pyray_spill_file *f, int fd)
{
    struct stat st;
    struct statfs fs;
    f->fd = -1;
    f->reserve = 0;
    f->in_memory = 0;
    if (fd < 0 || fstat(fd, &st) != 0)
        return;
    f->fd = fd;
    f->device = (uint64_t)st.st_dev;
    f->inode = (uint64_t)st.st_ino;
    if (fstatfs(fd, &fs) == 0) {
        /* Other programs write to that file system too. */
        f->reserve = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize / 20;
        if (f->reserve > (uint64_t)256 << 20)
            f->reserve = (uint64_t)256 << 20;
        f->in_memory = fs.f_type == 0x01021994 /* tmpfs */ || fs.f_type == 0x858458f6 /* ramfs */;
    }
}

/* Bytes that the file system has free for us. */
static inline uint64_t pyray_spill_free(const pyray_spill_file *f)
{
    struct statvfs fs;
    uint64_t n;
    if (f->fd < 0 || fstatvfs(f->fd, &fs) != 0)
        return 0;
    n = (uint64_t)fs.f_bavail * (uint64_t)fs.f_frsize;
    return n > f->reserve ? n - f->reserve : 0;
}

/* Write n bytes; 0, or an errno. */
static inline int pyray_spill_write(const pyray_spill_file *f, const char *from, uint64_t n,
                                    uint64_t at)
{
    ssize_t got;
    while (n) {
        got = pwrite(f->fd, from, n < PYRAY_SPILL_PIECE ? n : PYRAY_SPILL_PIECE, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO;
        from += got;
        at += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return 0;
}

/* Have the file system set blocks aside, so that a write to the mapping finds them (it would be
 * killed by SIGBUS otherwise).  0, or an errno. */
static inline int pyray_spill_reserve(const pyray_spill_file *f, uint64_t at, uint64_t n)
{
    static const char zeros[65536];
    int error;
    if (!pyray_spill_there(f))
        return EBADF;
    if (pyray_spill_free(f) < n)
        return ENOSPC;
    do {
        error = fallocate(f->fd, 0, (off_t)at, (off_t)n) == 0 ? 0 : errno;
    } while (error == EINTR);
    /* Where blocks cannot be set aside, writing them does it. */
    if (error == EOPNOTSUPP || error == ENOSYS)
        for (error = 0; n && !error; at += sizeof(zeros), n -= n < sizeof(zeros) ? n : sizeof(zeros))
            error = pyray_spill_write(f, zeros, n < sizeof(zeros) ? n : sizeof(zeros), at);
    return error;
}

/* Give blocks back to the file system, and say whether they are zero now.  Where it fails they stay
 * the file's, and are used again. */
static inline int pyray_spill_punch(const pyray_spill_file *f, uint64_t at, uint64_t n)
{
    return pyray_spill_there(f)
           && fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0;
}

/* Have written blocks go to the disk, and out of memory. */
static inline void pyray_spill_drop_cache(const pyray_spill_file *f, uint64_t at, uint64_t n)
{
    (void)sync_file_range(f->fd, (off_t)at, (off_t)n,
                          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE
                          | SYNC_FILE_RANGE_WAIT_AFTER);
    (void)posix_fadvise(f->fd, (off_t)at, (off_t)n, POSIX_FADV_DONTNEED);
}

#endif
