/* Preloaded into a process (LD_PRELOAD): counts its calls of the operating system that concern files of one folder, and lets one
   of them fail, write half, or meet a signal (SIGKILL: it is the last one). It sees what Python, SQLite and Arrow call alike.

   Idle until calls_arm(). A call concerns the folder if its path is relative or begins with the folder's, or if
   its descriptor was opened by such a path. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum call { OPEN, READ, WRITE, SYNC, TRUNCATE, CLOSE, LINK, RENAME, UNLINK, MKDIR, RMDIR, NUM_CALLS };
enum action { COUNT, SIGNAL_BEFORE, SIGNAL_WITHIN, SIGNAL_AFTER, FAIL, SHORT };
#define MAX_FDS 65536

static char folder[4096];
static atomic_int counts[NUM_CALLS];
static _Atomic unsigned char is_ours[MAX_FDS];
static enum call chosen = NUM_CALLS;
static int chosen_number, error_number, signal_number;
static enum action action;
static atomic_int armed;

static void send_signal(void) {
  kill(getpid(), signal_number);
  while (signal_number == SIGKILL) pause();
}

static int concerns(const char *path) {
  return atomic_load(&armed) && path && (path[0] != '/' || strncmp(path, folder, strlen(folder)) == 0);
}

static int has(int fd) { return atomic_load(&armed) && fd >= 0 && fd < MAX_FDS && atomic_load(&is_ours[fd]); }

/* Counts a call. What is to be done with it: COUNT is nothing. */
static enum action meets(enum call call) {
  int number = atomic_fetch_add(&counts[call], 1) + 1;
  if (call != chosen || number != chosen_number) return COUNT;
  if (action == SIGNAL_BEFORE) send_signal();
  return action;
}

/* The `number`-th call (from 1) of that kind; `value` is what errno becomes, or the signal. Nothing is chosen by NUM_CALLS. */
void calls_arm(const char *where, int call, int number, int what, int value) {
  strncpy(folder, where, sizeof folder - 1);
  chosen = (enum call)call, chosen_number = number, action = (enum action)what, error_number = signal_number = value;
  atomic_store(&armed, 1);
}

int calls_count(int call) { return atomic_load(&counts[call]); }

#define REAL(result, name, ...)                                  \
  static result (*real)(__VA_ARGS__);                            \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* `call` as it is, or refused, or followed by death. */
#define DO(kind, condition, type, expression)            \
  enum action met = (condition) ? meets(kind) : COUNT;   \
  if (met == FAIL) return errno = error_number, (type)-1; \
  type result = (expression);                            \
  if (met == SIGNAL_AFTER || met == SIGNAL_WITHIN) send_signal();    \
  return result

static int opened(int fd, int ours) {
  if (fd >= 0 && fd < MAX_FDS) atomic_store(&is_ours[fd], (unsigned char)ours);
  return fd;
}

#define OPENS(...)                                                                      \
  {                                                                                     \
    mode_t mode = 0;                                                                    \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                              \
      va_list more;                                                                     \
      va_start(more, flags);                                                            \
      mode = va_arg(more, mode_t);                                                      \
      va_end(more);                                                                     \
    }                                                                                   \
    int ours = concerns(path);                                                          \
    DO(OPEN, ours, int, opened(real(__VA_ARGS__ path, flags, mode), ours));             \
  }

int open(const char *path, int flags, ...) { REAL(int, "open", const char *, int, mode_t); OPENS() }
int open64(const char *path, int flags, ...) { REAL(int, "open64", const char *, int, mode_t); OPENS() }
int openat(int at, const char *path, int flags, ...) { REAL(int, "openat", int, const char *, int, mode_t); OPENS(at, ) }
int openat64(int at, const char *path, int flags, ...) {
  REAL(int, "openat64", int, const char *, int, mode_t);
  OPENS(at, )
}

int close(int fd) {
  REAL(int, "close", int);
  int ours = has(fd);
  if (ours) atomic_store(&is_ours[fd], 0);
  DO(CLOSE, ours, int, real(fd));
}

/* Half of it is written by a SHORT call, and by one that dies within. */
#define WRITES(condition, size, expression)                                              \
  {                                                                                      \
    enum action met = (condition) ? meets(WRITE) : COUNT;                                \
    if (met == FAIL) return errno = error_number, -1;                                    \
    if (met == SHORT || met == SIGNAL_WITHIN) size = size / 2 + size % 2;                  \
    ssize_t result = (expression);                                                       \
    if (met == SIGNAL_WITHIN || met == SIGNAL_AFTER) send_signal();                                  \
    return result;                                                                       \
  }

ssize_t write(int fd, const void *data, size_t size) { REAL(ssize_t, "write", int, const void *, size_t); WRITES(has(fd), size, real(fd, data, size)) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  WRITES(has(fd), size, real(fd, data, size, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  WRITES(has(fd), size, real(fd, data, size, at))
}

ssize_t read(int fd, void *data, size_t size) { REAL(ssize_t, "read", int, void *, size_t); DO(READ, has(fd), ssize_t, real(fd, data, size)); }
ssize_t pread(int fd, void *data, size_t size, off_t at) {
  REAL(ssize_t, "pread", int, void *, size_t, off_t);
  DO(READ, has(fd), ssize_t, real(fd, data, size, at));
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
  REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
  DO(READ, has(fd), ssize_t, real(fd, data, size, at));
}

int fsync(int fd) { REAL(int, "fsync", int); DO(SYNC, has(fd), int, real(fd)); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); DO(SYNC, has(fd), int, real(fd)); }
int ftruncate(int fd, off_t size) { REAL(int, "ftruncate", int, off_t); DO(TRUNCATE, has(fd), int, real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(int, "ftruncate64", int, off64_t); DO(TRUNCATE, has(fd), int, real(fd, size)); }

int link(const char *from, const char *to) { REAL(int, "link", const char *, const char *); DO(LINK, concerns(to), int, real(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(int, "linkat", int, const char *, int, const char *, int);
  DO(LINK, concerns(to), int, real(a, from, b, to, flags));
}
int rename(const char *from, const char *to) { REAL(int, "rename", const char *, const char *); DO(RENAME, concerns(to), int, real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) {
  REAL(int, "renameat", int, const char *, int, const char *);
  DO(RENAME, concerns(to), int, real(a, from, b, to));
}
int unlink(const char *path) { REAL(int, "unlink", const char *); DO(UNLINK, concerns(path), int, real(path)); }
int unlinkat(int at, const char *path, int flags) {
  REAL(int, "unlinkat", int, const char *, int);
  DO(flags & AT_REMOVEDIR ? RMDIR : UNLINK, concerns(path), int, real(at, path, flags));
}
int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir", const char *, mode_t); DO(MKDIR, concerns(path), int, real(path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); DO(MKDIR, concerns(path), int, real(at, path, mode)); }
int rmdir(const char *path) { REAL(int, "rmdir", const char *); DO(RMDIR, concerns(path), int, real(path)); }
