/*
 * Installs a seccomp program from a file, then makes the given system calls, for seccomp.test.ts. x86-64 only.
 * If the program is `-`, it installs none and tests the filter it was started with, for seccomp-daemon.test.ts.
 *
 * usage: seccomp-probe PROGRAM FLAGS ABI:NUMBER[:ARGUMENT...]...
 * ABI is 64, 32 (int 0x80) or x32. Prints a line with the result of each call; errors are negative errnos.
 */
#include "../prison/raw-call.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/filter.h and linux/seccomp.h, which musl does not include. */
struct sock_filter { unsigned short code; unsigned char jt, jf; unsigned k; };
struct sock_fprog { unsigned short len; struct sock_filter *filter; };
enum { SECCOMP_SET_MODE_FILTER = 1 };

static struct sock_filter instructions[4096];

static void install(const char *path, unsigned flags)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t bytes = read(file, instructions, sizeof instructions);
	struct sock_fprog program = { .len = bytes / sizeof *instructions, .filter = instructions };

	close(file);
	if (bytes <= 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program)) {
		fprintf(stderr, "install %s: %s\n", path, strerror(errno));
		exit(99);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 98;
	if (strcmp(argv[1], "-") != 0)
		install(argv[1], strtoul(argv[2], NULL, 0));
	for (int i = 3; i < argc; i++) {
		unsigned long values[7] = { 0 };
		char *next = strchr(argv[i], ':');
		int is32 = strncmp(argv[i], "32:", 3) == 0;

		for (int n = 0; next && *next == ':' && n < 7; n++)
			values[n] = strtoul(next + 1, &next, 0);
		if (strncmp(argv[i], "x32:", 4) == 0)
			values[0] |= 0x40000000;
		printf("%ld\n", is32 ? call32(values[0], values + 1) : call64(values[0], values + 1));
		fflush(stdout);
	}
	return 0;
}
