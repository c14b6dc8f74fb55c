/* Counts what a process asks of its files (and of memory), and at a chosen event does harm. Loaded by LD_PRELOAD.
 *
 * The orders are in a file that all processes of a case map (FAULT_ORDERS, or faults_arm): so they count together.
 * Only what lies below `root` is counted. What libraries write (polars, safetensors, SQLite) goes through here, too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* kinds of events; tests/faults/injecting.py has the same numbers */
enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, REMOVE = 16, FOLDER = 32, ALLOCATE = 64 };
/* what is done at the event */
enum { NOTHING = 0, SIGNAL = 1, FAIL = 2, FAIL_ON = 3, CLOCK = 4 };

struct orders {
    _Atomic long count;      /* events so far */
    _Atomic long of_kind[7]; /* of each kind, in the order above */
    long at;                 /* the event that is hit, from 1 */
    int kinds;               /* which events count */
    int action;
    int value;               /* a signal or an errno */
    _Atomic int hit;         /* whether it was */
    long clock;              /* seconds that the clock is set back by, once hit */
    char root[1024];         /* the folder */
    char what[1024];         /* the event that was hit */
};

static struct orders *orders;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

int faults_arm(const char *path) {
    REAL(int, "open64", const char *, int, ...);
    int file = real(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return -1;
    void *at = mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED) return -1;
    orders = at;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_ORDERS");
    if (path && *path) faults_arm(path);
}

/* whether a path, as it was given, lies below the root */
static int is_ours(const char *path) {
    char here[PATH_MAX];
    if (!path) return 0;
    if (path[0] != '/') {
        if (!getcwd(here, sizeof here)) return 0;
        path = here;
    }
    return strncmp(path, orders->root, strlen(orders->root)) == 0;
}

static const char *path_of(int file, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, into, PATH_MAX - 1);
    into[length < 0 ? 0 : length] = 0;
    return into;
}

/* -> 0: go on; 1: the call fails with errno; 2: a signal that kills comes once half is done */
static int event(int kind, const char *path) {
    if (!(orders->kinds & kind) || (path && !is_ours(path))) return 0;
    long number = atomic_fetch_add(&orders->count, 1) + 1;
    atomic_fetch_add(&orders->of_kind[__builtin_ctz(kind)], 1);
    if (orders->action == NOTHING) return 0;
    if (orders->action == FAIL_ON) {
        /* a full disk: what is removed, and names, may still go */
        if (number < orders->at || (orders->value == ENOSPC && (kind & (REMOVE | RENAME)))) return 0;
    } else if (number != orders->at) {
        return 0;
    }
    if (!atomic_exchange(&orders->hit, 1))
        snprintf(orders->what, sizeof orders->what, "%d %s", kind, path ? path : "");
    if (orders->action == FAIL || orders->action == FAIL_ON) {
        errno = orders->value;
        return 1;
    }
    if (orders->action == SIGNAL) {
        if (orders->value == SIGKILL && kind == WRITE) return 2;
        kill(getpid(), orders->value);
    }
    return 0;
}

static int event_of(int kind, int file) {
    char path[PATH_MAX];
    if (!orders || !(orders->kinds & kind)) return 0;
    int kept = errno, found = path_of(file, path)[0] == '/' ? event(kind, path) : 0; /* else a pipe or the like */
    if (found != 1) errno = kept;
    return found;
}

#define AT(kind, path) do { if (orders && event(kind, path) == 1) return -1; } while (0)

static int for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (for_writing(flags)) AT(CREATE, path); \
        return real(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if (for_writing(flags)) AT(CREATE, path); \
        return real(at, path, flags, mode); \
    }
#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, #name, const char *, const char *); \
        if (orders && strpbrk(mode, "wa+") && event(CREATE, path) == 1) return NULL; \
        return real(path, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int found = event_of(WRITE, file);
    if (found == 1) return -1;
    if (found == 2) { real(file, bytes, count / 2); kill(getpid(), SIGKILL); }
    return real(file, bytes, count);
}

#define PWRITE(name, offset) \
    ssize_t name(int file, const void *bytes, size_t count, offset at) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset); \
        int found = event_of(WRITE, file); \
        if (found == 1) return -1; \
        if (found == 2) { real(file, bytes, count / 2, at); kill(getpid(), SIGKILL); } \
        return real(file, bytes, count, at); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FILE(result, name, kind, types, names) \
    result name types { \
        REAL(result, #name, int, ...); \
        int found = event_of(kind, file); \
        if (found == 1) return -1; \
        if (found == 2) kill(getpid(), SIGKILL); \
        return ((result (*) types)real) names; \
    }
ON_FILE(ssize_t, writev, WRITE, (int file, const struct iovec *parts, int count), (file, parts, count))
ON_FILE(int, ftruncate, WRITE, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, WRITE, (int file, off64_t size), (file, size))
ON_FILE(int, fallocate, WRITE, (int file, int mode, off_t from, off_t size), (file, mode, from, size))
ON_FILE(int, fallocate64, WRITE, (int file, int mode, off64_t from, off64_t size), (file, mode, from, size))
ON_FILE(ssize_t, sendfile, WRITE, (int file, int from, off_t *at, size_t count), (file, from, at, count))
ON_FILE(ssize_t, sendfile64, WRITE, (int file, int from, off64_t *at, size_t count), (file, from, at, count))
ON_FILE(int, fsync, SYNC, (int file), (file))
ON_FILE(int, fdatasync, SYNC, (int file), (file))

#define ON_PATH(name, kind, path, types, names) \
    int name types { \
        static int (*real) types; \
        if (!real) real = (int (*) types)dlsym(RTLD_NEXT, #name); \
        AT(kind, path); \
        return real names; \
    }
ON_PATH(rename, RENAME, to, (const char *from, const char *to), (from, to))
ON_PATH(renameat, RENAME, to, (int a, const char *from, int b, const char *to), (a, from, b, to))
ON_PATH(renameat2, RENAME, to, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
ON_PATH(link, CREATE, to, (const char *from, const char *to), (from, to))
ON_PATH(linkat, CREATE, to, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
ON_PATH(symlink, CREATE, to, (const char *from, const char *to), (from, to))
ON_PATH(unlink, REMOVE, path, (const char *path), (path))
ON_PATH(unlinkat, REMOVE, path, (int at, const char *path, int flags), (at, path, flags))
ON_PATH(rmdir, REMOVE, path, (const char *path), (path))
ON_PATH(mkdir, FOLDER, path, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, FOLDER, path, (int at, const char *path, mode_t mode), (at, path, mode))

/* what torch asks memory of the host for */
int posix_memalign(void **at, size_t alignment, size_t size) {
    REAL(int, "posix_memalign", void **, size_t, size_t);
    if (orders && orders->kinds & ALLOCATE && event(ALLOCATE, NULL) == 1) return ENOMEM;
    return real(at, alignment, size);
}

static long back(void) { return orders && orders->action == CLOCK && orders->hit ? orders->clock : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int code = real(clock, now);
    if (code == 0 && clock == CLOCK_REALTIME) now->tv_sec -= back();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, "gettimeofday", struct timeval *, void *);
    int code = real(now, zone);
    if (code == 0) now->tv_sec -= back();
    return code;
}

time_t time(time_t *into) {
    REAL(time_t, "time", time_t *);
    time_t now = real(NULL) - back();
    if (into) *into = now;
    return now;
}
