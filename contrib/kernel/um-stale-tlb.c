// SPDX-License-Identifier: GPL-2.0-only
/*
 * Does the kernel see a store through a shared mapping that begins after sync_file_range(2) or
 * fallocate(2) has made the page clean, or taken it out of the file? No FUSE in it.
 *
 * Invariant: the child makes no system call, so nothing but interrupts and faults brings it into the
 * kernel, and its last store begins after the call of the parent has returned. Not a stress test: a
 * round is decided by what is read at its end.
 *
 *   gcc -O2 -static -o um-stale-tlb um-stale-tlb.c
 *   ./um-stale-tlb FILE writeback 200     FILE on ext4 or another file system with a disk
 *   ./um-stale-tlb FILE punch 200         FILE on tmpfs
 *
 * Exit status: 0, no store was lost; 1, some were; 2, it could not be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

struct control {
	_Atomic long last;
	_Atomic int stop;
	_Atomic int stopped;
};

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void wait_for_at_least(_Atomic long *value, long least)
{
	time_t limit = time(NULL) + 20;

	while (atomic_load(value) < least) {
		if (time(NULL) > limit) {
			fprintf(stderr, "the child does not go on storing\n");
			exit(2);
		}
		sched_yield();
	}
}

static void store_until_stopped(int fd, struct control *c)
{
	_Atomic long *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	long i = 0;

	if (p == MAP_FAILED)
		die("mmap");
	while (!atomic_load(&c->stop)) {
		atomic_store(p, ++i);
		atomic_store(&c->last, i);
	}
	atomic_store(&c->stopped, 1);
	for (;;)
		;
}

static void take_the_entry_away(int fd, const char *mode)
{
	int flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
		    SYNC_FILE_RANGE_WAIT_AFTER;

	if (!strcmp(mode, "writeback")) {
		if (sync_file_range(fd, 0, PAGE, flags))
			die("sync_file_range");
	} else if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE)) {
		die("fallocate");
	}
}

/* Whether the last store is not in the file when it has been dropped from the cache. */
static int round_loses(const char *path, const char *mode, struct control *c, int show)
{
	static const char zeros[PAGE];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	long want, before, after;
	pid_t pid;

	if (fd < 0 || pwrite(fd, zeros, PAGE, 0) != PAGE || fsync(fd))
		die(path);
	memset(c, 0, sizeof(*c));
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		store_until_stopped(fd, c);
	wait_for_at_least(&c->last, 1000);
	take_the_entry_away(fd, mode);
	/* The second one from here has begun after the call. */
	wait_for_at_least(&c->last, atomic_load(&c->last) + 2);
	atomic_store(&c->stop, 1);
	while (!atomic_load(&c->stopped))
		sched_yield();
	want = atomic_load(&c->last);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (pread(fd, &before, sizeof(before), 0) != sizeof(before) || fsync(fd) ||
	    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) ||
	    pread(fd, &after, sizeof(after), 0) != sizeof(after))
		die(path);
	close(fd);
	if (after != want && show)
		printf("stored %ld, read %ld before fsync and DONTNEED, %ld after them\n",
		       want, before, after);
	return after != want;
}

int main(int argc, char **argv)
{
	struct control *c = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int rounds, lost = 0;

	if (argc != 4 || (strcmp(argv[2], "writeback") && strcmp(argv[2], "punch"))) {
		fprintf(stderr, "usage: %s FILE writeback|punch ROUNDS\n", argv[0]);
		return 2;
	}
	if (c == MAP_FAILED)
		die("mmap");
	rounds = atoi(argv[3]);
	for (int r = 0; r < rounds; r++)
		lost += round_loses(argv[1], argv[2], c, !lost);
	printf("%s: %d of %d rounds lost the last store\n", argv[2], lost, rounds);
	return lost != 0;
}
