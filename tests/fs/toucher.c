/* Touches the marker in the way that the first argument names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

static const char *path = ".save";

static int written(void) {
    int fd = open(path, O_WRONLY);
    if (fd >= 0 && write(fd, "note", 4) != 4) return -1;
    return fd;
}

static int touch(const char *how) {
    struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    struct timespec one[2] = {{0, UTIME_OMIT}, {1, 1}};
    int fd;
    FILE *file;
    if (!strcmp(how, "utimensat null")) return utimensat(AT_FDCWD, path, NULL, 0);
    if (!strcmp(how, "utimensat now")) return utimensat(AT_FDCWD, path, now, 0);
    if (!strcmp(how, "utimensat one")) return utimensat(AT_FDCWD, path, one, AT_SYMLINK_NOFOLLOW);
    if (!strcmp(how, "utime")) return utime(path, NULL);
    if (!strcmp(how, "utimes")) return utimes(path, NULL);
    if (!strcmp(how, "creat")) return (fd = creat(path, 0644)) < 0 || close(fd);
    if (!strcmp(how, "open close")) return (fd = open(path, O_WRONLY)) < 0 || close(fd);
    if (!strcmp(how, "open exit")) return open(path, O_WRONLY) < 0;
    if (!strcmp(how, "fopen")) return !(file = fopen(path, "w")) || fclose(file);
    if (!strcmp(how, "futimens")) {
        return (fd = open(path, O_WRONLY | O_CREAT, 0644)) < 0 || futimens(fd, NULL) || close(fd);
    }
    if (!strcmp(how, "futimens reading")) return (fd = open(path, O_RDONLY)) < 0 || futimens(fd, NULL) || close(fd);
    if (!strcmp(how, "write close")) return (fd = written()) < 0 || close(fd);
    if (!strcmp(how, "write fsync close")) return (fd = written()) < 0 || fsync(fd) || close(fd);
    if (!strcmp(how, "write fdatasync close")) return (fd = written()) < 0 || fdatasync(fd) || close(fd);
    if (!strcmp(how, "write close fsync")) {
        return (fd = written()) < 0 || close(fd) || (fd = open(path, O_RDONLY)) < 0 || fsync(fd) || close(fd);
    }
    if (!strcmp(how, "write fprintf fsync fclose")) {
        return !(file = fopen(path, "w")) || fprintf(file, "note") != 4 || fflush(file) || fsync(fileno(file)) || fclose(file);
    }
    fprintf(stderr, "no such way: %s\n", how);
    return 1;
}

int main(int count, char **words) {
    if (count == 2 && touch(words[1]) == 0) return 0;
    perror(count == 2 ? words[1] : "one argument");
    return 1;
}
