/*
 * Prints what a process in a container is, has, reaches and may do: one `key value` line each, for test/prison. x86-64 only.
 *
 * usage: probe [-o FILE] [-p] [-w]
 * -o writes to a file, for hooks; -p looks only at the process itself; -w waits for a signal afterwards, as the first process of a container.
 *
 * It harms nothing, also without any isolation: system calls get arguments that fail, files in /proc and /sys are opened and not written, and what a
 * call may change happens in a child process.
 */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void row(const char *key, const char *format, ...)
{
	va_list arguments;

	printf("%s ", key);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

long result_of(long result)
{
	return result == -1 ? -errno : result;
}

int in_child(long (*attempt)(const void *), const void *argument)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		long result;

		alarm(30);
		setsid();
		result = attempt(argument);
		_exit(result < 0 ? -result : 0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status) ? -1000 - WTERMSIG(status) : -WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	int waits = 0, calls = 1;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-w") == 0)
			waits = 1;
		else if (strcmp(argv[i], "-p") == 0)
			calls = 0;
		else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc && !freopen(argv[i + 1], "w", stdout))
			return 98;
	}
	probe_process();
	if (calls) {
		probe_calls();
		probe_paths();
		probe_devices();
		probe_mounts();
		probe_cgroups();
	}
	row("end", "1");
	fflush(stdout);
	while (waits)
		pause();
	return 0;
}
