/*
 * Shows what a process of a container has and can reach, for exec-safety.test.ts.
 *
 * usage: exec-probe COMMAND [ARGUMENT...]; results are lines `name value`, in which -N is errno N
 *   self [wait]           fds, working directory and what else a process inherits
 *   key-run NAME ARG...   runs a program in a new session keyring that has the key NAME
 *   key-add NAME          adds a key to the session keyring
 *   key-find NAME         searches the session keyring
 *   key-steal RING NAME   tries to reach a keyring by its number
 *   change PID            seals of a process's executable, and tries to change it
 *   watch FILE            attacks every process named berth-monitor until FILE exists
 *   overwrite FILE FIRST  writes to the executable of every process that is the monitor until FILE exists; creates FIRST when it has found one
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GET_ID = 0, JOIN = 1, SETPERM = 5, DESCRIBE = 6, LINK = 8, SEARCH = 10, READ = 11 };
enum { PROCESS = -2, SESSION = -3 };

static long keyctl(int operation, long a, long b, long c) { return syscall(SYS_keyctl, operation, a, b, c, 0L); }
static long search(long ring, const char *name) { return keyctl(SEARCH, ring, (long)"user", (long)name); }
static long add_key(const char *name) { return syscall(SYS_add_key, "user", name, "secret", 6L, (long)SESSION); }
static void show(const char *name, long result) { printf("%s %ld\n", name, result < 0 ? (long)-errno : result); }

static void show_fds(void)
{
	char path[64], target[256];
	DIR *fds = opendir("/proc/self/fd");

	for (struct dirent *entry; (entry = readdir(fds)) != NULL;) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", atoi(entry->d_name));
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length < 0 || entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(fds)) continue;
		target[length] = '\0';
		target[strcspn(target, ":")] = '\0';
		printf("fd%s %s\n", entry->d_name, target);
	}
	closedir(fds);
}

static void show_file(const char *path, const char *prefixes)
{
	char line[1024];
	FILE *file = fopen(path, "r");

	while (file != NULL && fgets(line, sizeof line, file) != NULL) {
		line[strcspn(line, ":\n")] = '\0';
		if (*prefixes == '\0') printf("oom %s\n", line);
		else if (strstr(prefixes, line) != NULL) printf("%s %s", line, line + strlen(line) + 1);
	}
	if (file != NULL) fclose(file);
}

static int self(void)
{
	char text[4096];
	int signal = 0;
	struct rlimit files;

	show_fds();
	const long length = syscall(SYS_getcwd, text, sizeof text);
	printf("cwd %s\n", length > 0 ? text : "none");
	printf("umask %o\n", (unsigned)umask(0));
	printf("session %d\n", getsid(0) == getpid());
	printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
	getrlimit(RLIMIT_NOFILE, &files);
	printf("files %lu:%lu\n", (unsigned long)files.rlim_cur, (unsigned long)files.rlim_max);
	prctl(PR_GET_PDEATHSIG, &signal);
	printf("deathsig %d\n", signal);
	show_file("/proc/self/status", "CapInh CapPrm CapEff CapBnd CapAmb Seccomp NoNewPrivs Groups Uid Gid SigIgn SigBlk");
	show_file("/proc/self/oom_score_adj", "");
	return 0;
}

static int key_run(char **arguments)
{
	if (keyctl(JOIN, 0, 0, 0) < 0 || add_key(arguments[0]) < 0) return 97;
	execvp(arguments[1], arguments + 1);
	return 96;
}

static int key_steal(long ring, const char *name)
{
	show("describe", keyctl(DESCRIBE, ring, 0, 0));
	show("read", keyctl(READ, ring, 0, 0));
	show("search", search(ring, name));
	show("setperm", keyctl(SETPERM, ring, 0x3f3f3f3f, 0));
	show("link", keyctl(LINK, ring, PROCESS, 0));
	return 0;
}

/* Whoever can see the executable of a monitor, must not be able to change what the next one runs. */
static int change(const char *pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	const int fd = open(path, O_RDONLY);
	struct stat before, after;

	show("open", fd < 0 ? -1 : 0);
	show("seals", fcntl(fd, F_GET_SEALS));
	fstat(fd, &before);
	const int again = open(path, O_RDWR);
	show("write", again < 0 ? -1 : write(again, "#", 1));
	show("truncate", truncate(path, 0));
	show("make-writable", fchmod(fd, 0777));
	show("seal", fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	fstat(fd, &after);
	printf("changed %d\n", before.st_mode != after.st_mode || before.st_size != after.st_size);
	return 0;
}

static int is_monitor(int pid)
{
	char path[64], name[32] = "";
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	const int fd = open(path, O_RDONLY);
	const ssize_t length = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
	close(fd);
	return length > 0 && strcmp(name, "berth-monitor\n") == 0;
}

static const char *const files[] = {"exe", "environ", "mem", "maps", "root", "cwd", "fd/0", "fd/3", "fd/6", "ns/mnt", "syscall"};
/* These can be opened, and are empty, when a process is ending. */
static const char *const texts = "environ maps syscall";
enum { FILES = sizeof files / sizeof *files };
static int seen, opened[FILES];

static void attack(int pid)
{
	char path[64], target[64] = "", byte;
	int was_opened[FILES];

	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
		const int fd = open(path, O_RDONLY);
		if (i == 0 && fd >= 0) {
			snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
			/* During execve(2) it already has its new program, but not yet its new name. */
			if (readlink(path, target, sizeof target - 1) > 0 && strstr(target, "monitor") == NULL) {
				close(fd);
				return;
			}
		}
		was_opened[i] = fd >= 0 && (strstr(texts, files[i]) == NULL || read(fd, &byte, 1) > 0);
		if (fd >= 0) close(fd);
	}
	/* After its execve it is a program of the container, which may be opened. */
	if (!is_monitor(pid)) return;
	seen++;
	for (int i = 0; i < FILES; i++) opened[i] += was_opened[i];
}

static int watch(const char *end)
{
	while (access(end, F_OK) != 0) {
		DIR *processes = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(processes)) != NULL;)
			if (is_monitor(atoi(entry->d_name))) attack(atoi(entry->d_name));
		closedir(processes);
	}
	printf("seen %d\n", seen);
	for (int i = 0; i < FILES; i++) printf("%s %d\n", files[i], opened[i]);
	return 0;
}

/* Opens the executable of every process it can and writes to it: a program started as `#!/proc/self/exe` is the monitor's. */
static int overwrite(const char *end, const char *first)
{
	char path[64];
	int held = 0, writable = 0, written = 0;

	while (access(end, F_OK) != 0) {
		DIR *processes = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(processes)) != NULL;) {
			char target[64] = "";
			if (atoi(entry->d_name) <= 0) continue;
			snprintf(path, sizeof path, "/proc/%d/exe", atoi(entry->d_name));
			const int fd = open(path, O_PATH);
			if (fd < 0) continue;
			snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
			if (readlink(path, target, sizeof target - 1) > 0 && strstr(target, "monitor") != NULL) {
				held++;
				close(open(first, O_WRONLY | O_CREAT, 0600));
				for (int tries = 0; tries < 2000; tries++) {
					const int again = open(path, O_RDWR);
					if (again < 0) {
						usleep(20);
						continue;
					}
					writable++;
					written += write(again, "#", 1) == 1 || ftruncate(again, 0) == 0;
					close(again);
				}
			}
			close(fd);
		}
		closedir(processes);
	}
	printf("held %d\nwritable %d\nwritten %d\n", held, writable, written);
	return 0;
}

int main(int count, char **arguments)
{
	const char *command = count > 1 ? arguments[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(command, "self") == 0) return self() + (count > 2 ? pause() : 0);
	if (count < 3) return 98;
	if (strcmp(command, "key-run") == 0) return key_run(arguments + 2);
	if (strcmp(command, "key-add") == 0) {
		show("key", add_key(arguments[2]));
		show("ring", keyctl(GET_ID, SESSION, 0, 0));
	} else if (strcmp(command, "key-find") == 0) show("key", search(SESSION, arguments[2]));
	else if (strcmp(command, "key-steal") == 0) return key_steal(atol(arguments[2]), arguments[3]);
	else if (strcmp(command, "change") == 0) return change(arguments[2]);
	else if (strcmp(command, "watch") == 0) return watch(arguments[2]);
	else if (strcmp(command, "overwrite") == 0) return count < 4 ? 98 : overwrite(arguments[2], arguments[3]);
	else return 99;
	return 0;
}
