/* What the process itself is and has: credentials, limits, namespaces, open files, variables, keyrings, and its reach to the host's sockets. */
#define _GNU_SOURCE
#include "probe.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

/* A line of /proc/self/status as a row: `name value`, or `default` if this kernel has no such line. */
static void status_row(const char *key, const char *name)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[1024];
	size_t length = strlen(name);

	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, name, length) == 0 && line[length] == ':') {
			char *value = line + length + 1;

			value[strcspn(value, "\n")] = '\0';
			row(key, "%s", value + strspn(value, "\t "));
		}
	if (file)
		fclose(file);
}

/* The text of a small file as a row, with blanks between its words. */
static void file_row(const char *key, const char *path)
{
	char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t bytes = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	if (bytes < 0) {
		row(key, "unreadable");
		return;
	}
	text[bytes] = '\0';
	printf("%s ", key);
	for (char *word = strtok(text, " \t\n"); word; word = strtok(NULL, " \t\n"))
		printf("%s,", word);
	printf("\n");
}

static void namespace_rows(void)
{
	static const char *const names[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts" };

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char path[64], key[64], target[128];
		ssize_t length;

		snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
		snprintf(key, sizeof key, "ns.%s", names[i]);
		length = readlink(path, target, sizeof target - 1);
		target[length < 0 ? 0 : length] = '\0';
		row(key, "%s", target);
	}
}

/* What is open beside stdin, stdout and stderr: anonymous objects by their kind, files by path. */
static void open_files_row(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;

	printf("open-files ");
	while (directory && (entry = readdir(directory))) {
		char target[4096];
		ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);

		if (length < 0 || atoi(entry->d_name) < 3 || atoi(entry->d_name) == dirfd(directory))
			continue;
		target[length] = '\0';
		if (target[0] != '/')
			target[strcspn(target, ":")] = '\0';
		printf("%s,", target);
	}
	printf("\n");
	closedir(directory);
}

static void limit_rows(void)
{
	static const char *const names[] = { "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime" };

	for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
		struct rlimit limit;
		char key[32];

		if (getrlimit(i, &limit) != 0)
			continue;
		snprintf(key, sizeof key, "rlimit.%s", names[i]);
		row(key, "%llu %llu", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	}
}

static void identity_rows(void)
{
	gid_t groups[256];
	int count = getgroups(256, groups);
	char path[4096];
	ssize_t length;

	row("uid", "%d %d", getuid(), geteuid());
	row("gid", "%d %d", getgid(), getegid());
	printf("groups ");
	for (int i = 0; i < count; i++)
		printf("%d,", groups[i]);
	printf("\n");
	row("parent", "%s", getppid() == 0 ? "none" : "some");
	row("session", "%s", getsid(0) == getpid() ? "leader" : "other");
	row("process-group", "%s", getpgid(0) == getpid() ? "leader" : "other");
	row("pid-1", "%s", getpid() == 1 ? "yes" : "no");
	length = readlink("/proc/self/exe", path, sizeof path - 1);
	path[length < 0 ? 0 : length] = '\0';
	row("exe", "%s", path);
	row("cwd", "%s", getcwd(path, sizeof path) ? path : "none");
	mode_t mask = umask(0);
	umask(mask);
	row("umask", "%04o", mask);
	printf("environment ");
	for (char **variable = environ; *variable; variable++)
		printf("%.*s,", (int)strcspn(*variable, "="), *variable);
	printf("\n");
}

static void attribute_rows(void)
{
	row("dumpable", "%d", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	row("keepcaps", "%d", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
	row("securebits", "%d", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	row("timerslack", "%d", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
	row("parent-death-signal", "%d", ({ int signal = 0; prctl(PR_GET_PDEATHSIG, &signal, 0, 0, 0); signal; }));
	row("subreaper", "%d", ({ int is = 0; prctl(PR_GET_CHILD_SUBREAPER, &is, 0, 0, 0); is; }));
	row("io-flusher", "%d", prctl(58, 0, 0, 0, 0) > 0);
	row("memory-deny-write-execute", "%d", prctl(66, 0, 0, 0, 0));
	row("personality", "%x", personality(0xffffffff));
	row("nice", "%d", getpriority(PRIO_PROCESS, 0));
	row("scheduler", "%d", (int)syscall(SYS_sched_getscheduler, 0));
	row("io-priority", "%d", (int)syscall(SYS_ioprio_get, 1, 0) >> 13);
}

static void keyring_rows(void)
{
	static const struct { const char *key; int id; } rings[] = { { "keyring.session", -3 }, { "keyring.user", -4 }, { "keyring.user-session", -5 }, { "keyring.process", -2 } };

	for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) {
		long serial = syscall(SYS_keyctl, 0, rings[i].id, 0);

		row(rings[i].key, "%ld", result_of(serial));
	}
}

/* A socket of the host with this abstract name, which exists in the network namespace of the test. */
static void abstract_row(const char *key, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path + 1, name, length);
	row(key, "%d", connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length) == 0 ? 0 : -errno);
	close(fd);
}

void probe_process(void)
{
	open_files_row();
	status_row("cap.effective", "CapEff");
	status_row("cap.permitted", "CapPrm");
	status_row("cap.inheritable", "CapInh");
	status_row("cap.bounding", "CapBnd");
	status_row("cap.ambient", "CapAmb");
	status_row("no-new-privs", "NoNewPrivs");
	status_row("seccomp.mode", "Seccomp");
	status_row("seccomp.filters", "Seccomp_filters");
	status_row("speculation.store-bypass", "Speculation_Store_Bypass");
	status_row("speculation.indirect-branch", "SpeculationIndirectBranch");
	status_row("signals.blocked", "SigBlk");
	status_row("signals.ignored", "SigIgn");
	file_row("uid-map", "/proc/self/uid_map");
	file_row("gid-map", "/proc/self/gid_map");
	file_row("setgroups", "/proc/self/setgroups");
	file_row("oom-score-adj", "/proc/self/oom_score_adj");
	file_row("coredump-filter", "/proc/self/coredump_filter");
	file_row("login-uid", "/proc/self/loginuid");
	file_row("label", "/proc/self/attr/current");
	namespace_rows();
	limit_rows();
	identity_rows();
	attribute_rows();
	keyring_rows();
	abstract_row("abstract-socket", "berth-prison");
}
