/*
 * Writes the seccomp program of a process, as the kernel has it, to stdout: an array of struct sock_filter. Needs root and CONFIG_CHECKPOINT_RESTORE.
 *
 * usage: seccomp-dump PID
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

/* From linux/ptrace.h: ptrace(2). */
enum { SECCOMP_GET_FILTER = 0x420c };

static unsigned char program[8 * 4096];

static int failed(const char *step)
{
	perror(step);
	return 1;
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? atoi(argv[1]) : 0;
	long count;

	if (pid <= 0)
		return 98;
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0) || waitpid(pid, NULL, __WALL) != pid)
		return failed("stop the process");
	/* Index 0 is the newest program. The result is the number of instructions. */
	count = ptrace(SECCOMP_GET_FILTER, pid, 0, program);
	if (count < 0)
		return failed("read the program");
	if (ptrace(SECCOMP_GET_FILTER, pid, 1, NULL) >= 0)
		return fprintf(stderr, "the process has more than one program\n"), 1;
	return fwrite(program, 8, count, stdout) == (size_t)count ? 0 : failed("write");
}
