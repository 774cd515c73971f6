/* Makes the n-th file-system call of a process fail, or kills the process there. Loaded with LD_PRELOAD; asleep until
 * faults_arm is called, and in every program that the process starts.
 *
 * Calls on paths below the watched folders count, and calls on descriptors that were opened there. The error is what the
 * kernel gives a caller: -1 and errno. Why: docs/decisions.md, D164. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 4096
#define MOST_FOLDERS 4

static int armed, fault_errno, lasting, pid;
static long calls, fault_at;
static char folders[MOST_FOLDERS][1024];
static int folder_count;
static unsigned char watched[MOST_DESCRIPTORS];
static char fault_name[64], fault_path[1024];

void faults_watch(const char *folder) {
    if (folder_count < MOST_FOLDERS) snprintf(folders[folder_count++], sizeof folders[0], "%s", folder);
}

/* number 0: count only. error 0: SIGKILL. lasts: every later call fails, too. */
void faults_arm(long number, int error, int lasts) {
    calls = 0, fault_at = number, fault_errno = error, lasting = lasts, fault_name[0] = fault_path[0] = 0;
    memset(watched, 0, sizeof watched);
    pid = getpid(), armed = 1;
}

void faults_disarm(void) { armed = 0; }
long faults_calls(void) { return calls; }
const char *faults_name(void) { return fault_name; }
const char *faults_path(void) { return fault_path; }

static int is_below(const char *path) {
    if (path == NULL) return 0;
    for (int i = 0; i < folder_count; i++) {
        size_t length = strlen(folders[i]);
        if (strncmp(path, folders[i], length) == 0 && (path[length] == '/' || path[length] == 0)) return 1;
    }
    return 0;
}

static int is_watched(int descriptor) {
    return descriptor >= 0 && descriptor < MOST_DESCRIPTORS && watched[descriptor];
}

/* Whether this call fails now; errno is set then. */
static int strikes(const char *name, const char *path) {
    if (!armed || getpid() != pid) return 0;
    long number = __sync_add_and_fetch(&calls, 1);
    if (fault_at == 0 || number < fault_at || (number > fault_at && !lasting)) return 0;
    if (number == fault_at) {
        snprintf(fault_name, sizeof fault_name, "%s", name);
        snprintf(fault_path, sizeof fault_path, "%s", path ? path : "");
    }
    if (fault_errno == 0) kill(getpid(), SIGKILL);
    errno = fault_errno;
    return 1;
}

static int path_strikes(const char *name, int folder, const char *path) {
    int counts = path && (path[0] == '/' ? is_below(path) : is_watched(folder));
    return armed && counts && strikes(name, path);
}

static int descriptor_strikes(const char *name, int descriptor) {
    return armed && is_watched(descriptor) && strikes(name, NULL);
}

static int remember(int descriptor, int folder, const char *path) {
    if (armed && descriptor >= 0 && descriptor < MOST_DESCRIPTORS)
        watched[descriptor] = path && (path[0] == '/' ? is_below(path) : is_watched(folder));
    return descriptor;
}

#define REAL(name) ((__typeof__(&name))find(#name))
static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

#define OPEN(name) \
int name(const char *path, int flags, ...) { \
    MODE(flags) \
    if (path_strikes("open", AT_FDCWD, path)) return -1; \
    return remember(REAL(name)(path, flags, mode), AT_FDCWD, path); \
}
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
int name(int folder, const char *path, int flags, ...) { \
    MODE(flags) \
    if (path_strikes("open", folder, path)) return -1; \
    return remember(REAL(name)(folder, path, flags, mode), folder, path); \
}
OPENAT(openat)
OPENAT(openat64)

/* A call by path, and one by descriptor, each with the arguments behind it. */
#define BY_PATH(kind, bad, name, parameters, arguments) \
kind name parameters { if (path_strikes(#name, AT_FDCWD, path)) return bad; return REAL(name) arguments; }
#define BY_PLACE(kind, bad, name, parameters, arguments) \
kind name parameters { if (path_strikes(#name, folder, path)) return bad; return REAL(name) arguments; }
#define BY_DESCRIPTOR(kind, bad, name, parameters, arguments) \
kind name parameters { if (descriptor_strikes(#name, descriptor)) return bad; return REAL(name) arguments; }

BY_PATH(int, -1, stat, (const char *path, struct stat *found), (path, found))
BY_PATH(int, -1, lstat, (const char *path, struct stat *found), (path, found))
BY_PATH(int, -1, stat64, (const char *path, struct stat64 *found), (path, found))
BY_PATH(int, -1, lstat64, (const char *path, struct stat64 *found), (path, found))
BY_PATH(int, -1, statvfs, (const char *path, struct statvfs *found), (path, found))
BY_PATH(int, -1, statvfs64, (const char *path, struct statvfs64 *found), (path, found))
BY_PATH(int, -1, access, (const char *path, int how), (path, how))
BY_PATH(int, -1, unlink, (const char *path), (path))
BY_PATH(int, -1, rmdir, (const char *path), (path))
BY_PATH(int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH(int, -1, chmod, (const char *path, mode_t mode), (path, mode))
BY_PATH(int, -1, truncate, (const char *path, off_t length), (path, length))
BY_PATH(int, -1, truncate64, (const char *path, off64_t length), (path, length))
BY_PATH(ssize_t, -1, readlink, (const char *path, char *buffer, size_t size), (path, buffer, size))
BY_PATH(int, -1, link, (const char *path, const char *to), (path, to))
BY_PATH(int, -1, rename, (const char *path, const char *to), (path, to))
BY_PLACE(int, -1, renameat, (int folder, const char *path, int other, const char *to), (folder, path, other, to))
BY_PLACE(int, -1, fstatat, (int folder, const char *path, struct stat *found, int flags), (folder, path, found, flags))
BY_PLACE(int, -1, fstatat64, (int folder, const char *path, struct stat64 *found, int flags), (folder, path, found, flags))
BY_PLACE(int, -1, faccessat, (int folder, const char *path, int how, int flags), (folder, path, how, flags))
BY_PLACE(int, -1, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
BY_PLACE(int, -1, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
BY_PLACE(int, -1, utimensat, (int folder, const char *path, const struct timespec times[2], int flags), (folder, path, times, flags))
BY_DESCRIPTOR(int, -1, fstat, (int descriptor, struct stat *found), (descriptor, found))
BY_DESCRIPTOR(int, -1, fstat64, (int descriptor, struct stat64 *found), (descriptor, found))
BY_DESCRIPTOR(ssize_t, -1, read, (int descriptor, void *buffer, size_t size), (descriptor, buffer, size))
BY_DESCRIPTOR(ssize_t, -1, pread64, (int descriptor, void *buffer, size_t size, off64_t at), (descriptor, buffer, size, at))
BY_DESCRIPTOR(ssize_t, -1, write, (int descriptor, const void *buffer, size_t size), (descriptor, buffer, size))
BY_DESCRIPTOR(ssize_t, -1, pwrite64, (int descriptor, const void *buffer, size_t size, off64_t at), (descriptor, buffer, size, at))
BY_DESCRIPTOR(int, -1, fsync, (int descriptor), (descriptor))
BY_DESCRIPTOR(int, -1, fdatasync, (int descriptor), (descriptor))
BY_DESCRIPTOR(int, -1, ftruncate, (int descriptor, off_t length), (descriptor, length))
BY_DESCRIPTOR(int, -1, ftruncate64, (int descriptor, off64_t length), (descriptor, length))
BY_DESCRIPTOR(int, -1, flock, (int descriptor, int how), (descriptor, how))
BY_DESCRIPTOR(int, -1, fchmod, (int descriptor, mode_t mode), (descriptor, mode))

DIR *opendir(const char *path) {
    if (path_strikes("opendir", AT_FDCWD, path)) return NULL;
    DIR *folder = REAL(opendir)(path);
    if (folder) remember(dirfd(folder), AT_FDCWD, path);
    return folder;
}

#define READDIR(kind, name) \
kind *name(DIR *folder) { \
    if (descriptor_strikes("readdir", dirfd(folder))) return NULL; \
    return REAL(name)(folder); \
}
READDIR(struct dirent, readdir)
READDIR(struct dirent64, readdir64)

/* On a network file system the data of a write may be refused as late as here. The descriptor is closed all the same. */
int close(int descriptor) {
    int fails = descriptor_strikes("close", descriptor), error = errno;
    if (descriptor >= 0 && descriptor < MOST_DESCRIPTORS) watched[descriptor] = 0;
    int answer = REAL(close)(descriptor);
    if (!fails) return answer;
    errno = error;
    return -1;
}
