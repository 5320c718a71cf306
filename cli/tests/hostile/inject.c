/* Preloaded, refuses a kind of system call from its Nth on, as a full or a broken disk does:
   FAULT_CALL, FAULT_FROM (0 for the first), FAULT_ERRNO. Standard output and standard error stay.
   Where it refuses one, it makes the file FAULT_MARK. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long calls;

static int refused(const char *name, int fd) {
  const char *call = getenv("FAULT_CALL");
  if (!call || strcmp(call, name) || fd == 1 || fd == 2) return 0;
  if (atomic_fetch_add(&calls, 1) < atol(getenv("FAULT_FROM"))) return 0;
  close(open(getenv("FAULT_MARK"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

#define CALL(type, name, parameters, arguments)                  \
  type name parameters {                                         \
    type(*real) parameters = dlsym(RTLD_NEXT, #name);            \
    return refused(#name, fd) ? (type)-1 : real arguments;       \
  }

CALL(ssize_t, read, (int fd, void *to, size_t count), (fd, to, count))
CALL(ssize_t, pread64, (int fd, void *to, size_t count, off64_t at), (fd, to, count, at))
CALL(ssize_t, write, (int fd, const void *from, size_t count), (fd, from, count))
CALL(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), (fd, from, count, at))
CALL(int, fsync, (int fd), (fd))
CALL(int, fdatasync, (int fd), (fd))
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size))
CALL(int, flock, (int fd, int operation), (fd, operation))
