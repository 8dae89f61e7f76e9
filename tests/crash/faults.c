/*
 * A layer between a program and libc (LD_PRELOAD): counts the calls that change files below one
 * directory, over all threads and children, and does something as the N-th is entered.
 *
 * Shared with the test through the file that $CRASH_STATE names (struct state; layer.py has the
 * same).  A call that is not counted here is not hit: test_layer.py compares with strace.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { COUNT, KILL, FAIL, TEAR, PAUSE };
enum { LOGGED = 16384, NAME = 16 };

struct state {
    uint32_t armed, calls, first, last, action, error, reads, hits, pid, paused, resumed, unused;
    char scope[464];
    char log[LOGGED][NAME];
};

static struct state *state;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CRASH_STATE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED)
        state = found;
    close(fd);
}

static void *libc(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

static int of_descriptor(int fd, char *into, size_t room)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, into, room - 1);
    if (size < 0)
        return 0;
    into[size] = 0;
    return 1;
}

static int in_scope(int fd, const char *path)
{
    char place[4096];
    if (path && path[0] == '/')
        return !strncmp(path, state->scope, strlen(state->scope));
    if (fd == AT_FDCWD) {
        if (!getcwd(place, sizeof place))
            return 0;
    } else if (!of_descriptor(fd, place, sizeof place)) {
        return 0;
    }
    return !strncmp(place, state->scope, strlen(state->scope));
}

/* With the command its child ends, if it was that one's call. */
__attribute__((noreturn)) static void die(void)
{
    kill(state->pid, SIGKILL);
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Returns what the call has to do: 0 all of it, -1 half of it, else the errno to fail with. */
static int enter(const char *name, int is_read, int fd, const char *path)
{
    int kept = errno;
    if (!state || !state->armed || state->reads != (uint32_t)is_read || !in_scope(fd, path)) {
        errno = kept;
        return 0;
    }
    errno = kept;
    while (state->action == PAUSE && state->paused != state->resumed)
        usleep(100);
    uint32_t number = __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST);
    if (number <= LOGGED)
        strncpy(state->log[number - 1], name, NAME - 1);
    if (state->action == PAUSE) {
        __atomic_store_n(&state->paused, number, __ATOMIC_SEQ_CST);
        while (state->paused != state->resumed)
            usleep(100);
        errno = kept;
        return 0;
    }
    if (number < state->first || number > state->last || state->action == COUNT)
        return 0;
    __atomic_add_fetch(&state->hits, 1, __ATOMIC_SEQ_CST);
    if (state->action == FAIL)
        return state->error;
    if (state->action == TEAR)
        return -1;
    die();
}


/* A call that is done or not done.  Half of it: the process ends after it. */
#define CALL(type, name, is_read, fd, path, parameters, arguments)                                 \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*real) parameters;                                                             \
        if (!real)                                                                                 \
            real = libc(#name);                                                                    \
        int what = enter(#name, is_read, fd, path);                                                \
        if (what > 0) {                                                                            \
            errno = what;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        type done = real arguments;                                                                \
        if (what < 0)                                                                              \
            die();                                                                                 \
        return done;                                                                               \
    }

/* A write: of which half may be done. */
#define WRITE(name, parameters, arguments)                                                         \
    ssize_t name parameters                                                                        \
    {                                                                                              \
        static ssize_t(*real) parameters;                                                          \
        if (!real)                                                                                 \
            real = libc(#name);                                                                    \
        int what = enter(#name, 0, fd, NULL);                                                      \
        if (what > 0) {                                                                            \
            errno = what;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        if (what < 0)                                                                              \
            size /= 2;                                                                             \
        ssize_t done = real arguments;                                                             \
        if (what < 0)                                                                              \
            die();                                                                                 \
        return done;                                                                               \
    }

WRITE(write, (int fd, const void *data, size_t size), (fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
WRITE(copy_file_range, (int in, off64_t *a, int fd, off64_t *b, size_t size, unsigned flags),
      (in, a, fd, b, size, flags))
WRITE(sendfile, (int fd, int in, off_t *at, size_t size), (fd, in, at, size))
WRITE(sendfile64, (int fd, int in, off64_t *at, size_t size), (fd, in, at, size))
CALL(ssize_t, writev, 0, fd, NULL, (int fd, const struct iovec *v, int n), (fd, v, n))

CALL(int, rename, 0, AT_FDCWD, to, (const char *from, const char *to), (from, to))
CALL(int, renameat, 0, td, to, (int fd, const char *from, int td, const char *to), (fd, from, td, to))
CALL(int, renameat2, 0, td, to, (int fd, const char *from, int td, const char *to, unsigned flags),
     (fd, from, td, to, flags))
CALL(int, link, 0, AT_FDCWD, to, (const char *from, const char *to), (from, to))
CALL(int, linkat, 0, td, to, (int fd, const char *from, int td, const char *to, int flags),
     (fd, from, td, to, flags))
CALL(int, symlink, 0, AT_FDCWD, to, (const char *from, const char *to), (from, to))
CALL(int, symlinkat, 0, fd, to, (const char *from, int fd, const char *to), (from, fd, to))
CALL(int, unlink, 0, AT_FDCWD, path, (const char *path), (path))
CALL(int, unlinkat, 0, fd, path, (int fd, const char *path, int flags), (fd, path, flags))
CALL(int, rmdir, 0, AT_FDCWD, path, (const char *path), (path))
CALL(int, mkdir, 0, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, 0, fd, path, (int fd, const char *path, mode_t mode), (fd, path, mode))
CALL(int, fsync, 0, fd, NULL, (int fd), (fd))
CALL(int, fdatasync, 0, fd, NULL, (int fd), (fd))
CALL(int, syncfs, 0, fd, NULL, (int fd), (fd))
CALL(int, ftruncate, 0, fd, NULL, (int fd, off_t size), (fd, size))
CALL(int, ftruncate64, 0, fd, NULL, (int fd, off64_t size), (fd, size))
CALL(int, fallocate, 0, fd, NULL, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
CALL(int, fallocate64, 0, fd, NULL, (int fd, int mode, off64_t at, off64_t size),
     (fd, mode, at, size))
CALL(int, fsetxattr, 0, fd, NULL, (int fd, const char *n, const void *v, size_t s, int flags),
     (fd, n, v, s, flags))
CALL(int, setxattr, 0, AT_FDCWD, path,
     (const char *path, const char *n, const void *v, size_t s, int flags), (path, n, v, s, flags))
CALL(int, lsetxattr, 0, AT_FDCWD, path,
     (const char *path, const char *n, const void *v, size_t s, int flags), (path, n, v, s, flags))
CALL(int, chmod, 0, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(int, fchmod, 0, fd, NULL, (int fd, mode_t mode), (fd, mode))
CALL(int, fchmodat, 0, fd, path, (int fd, const char *path, mode_t mode, int flags),
     (fd, path, mode, flags))
CALL(int, fchown, 0, fd, NULL, (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
CALL(int, fchownat, 0, fd, path, (int fd, const char *path, uid_t uid, gid_t gid, int flags),
     (fd, path, uid, gid, flags))
CALL(int, futimens, 0, fd, NULL, (int fd, const struct timespec times[2]), (fd, times))
CALL(int, utimensat, 0, fd, path,
     (int fd, const char *path, const struct timespec times[2], int flags), (fd, path, times, flags))

CALL(ssize_t, read, 1, fd, NULL, (int fd, void *data, size_t size), (fd, data, size))
CALL(ssize_t, pread, 1, fd, NULL, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
CALL(ssize_t, pread64, 1, fd, NULL, (int fd, void *data, size_t size, off64_t at),
     (fd, data, size, at))

/* These return the error instead of setting errno. */
#define ALLOCATE(name, offset)                                                                     \
    int name(int fd, offset at, offset size)                                                       \
    {                                                                                              \
        static int (*real)(int, offset, offset);                                                   \
        if (!real)                                                                                 \
            real = libc(#name);                                                                    \
        int what = enter(#name, 0, fd, NULL);                                                      \
        if (what > 0)                                                                              \
            return what;                                                                           \
        int done = real(fd, at, size);                                                             \
        if (what < 0)                                                                              \
            die();                                                                                 \
        return done;                                                                               \
    }

ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

/* Opening counts where it may make a file; for reads, where it may not. */
#define OPEN(name, fd, parameters, last, arguments)                                                \
    int name parameters                                                                            \
    {                                                                                              \
        static int (*real)();                                                                      \
        if (!real)                                                                                 \
            real = (int (*)())libc(#name);                                                         \
        mode_t mode = 0;                                                                           \
        int makes = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;                         \
        if (makes) {                                                                               \
            va_list rest;                                                                          \
            va_start(rest, last);                                                                  \
            mode = va_arg(rest, mode_t);                                                           \
            va_end(rest);                                                                          \
        }                                                                                          \
        int what = enter(#name, !makes, fd, path);                                                 \
        if (what > 0) {                                                                            \
            errno = what;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        int done = real arguments;                                                                 \
        if (what < 0)                                                                              \
            die();                                                                                 \
        return done;                                                                               \
    }

OPEN(open, AT_FDCWD, (const char *path, int flags, ...), flags, (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), flags, (path, flags, mode))
OPEN(openat, fd, (int fd, const char *path, int flags, ...), flags, (fd, path, flags, mode))
OPEN(openat64, fd, (int fd, const char *path, int flags, ...), flags, (fd, path, flags, mode))
