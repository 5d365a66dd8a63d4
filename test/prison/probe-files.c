/* Which files of /proc and /sys are readable and writable, which devices open, how everything is mounted, and which cgroups are seen. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Masked or read-only in ordinary containers, or of interest to an attacker. */
static const char *const paths[] = {
	"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/bus/pci", "/proc/config.gz", "/proc/fs", "/proc/fs/jbd2", "/proc/interrupts", "/proc/iomem", "/proc/ioports",
	"/proc/irq", "/proc/irq/default_smp_affinity", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags",
	"/proc/latency_stats", "/proc/modules", "/proc/mtrr", "/proc/sched_debug", "/proc/schedstat", "/proc/scsi", "/proc/slabinfo", "/proc/swaps", "/proc/sysrq-trigger",
	"/proc/sysvipc/shm", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo", "/proc/vmcore", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps",
	"/proc/sys/abi/vsyscall32", "/proc/sys/dev/cdrom/autoclose", "/proc/sys/fs/binfmt_misc", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/file-max", "/proc/sys/fs/mqueue/msg_max",
	"/proc/sys/fs/protected_hardlinks", "/proc/sys/fs/suid_dumpable", "/proc/sys/kernel/cap_last_cap", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/dmesg_restrict",
	"/proc/sys/kernel/domainname", "/proc/sys/kernel/hostname", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/io_uring_disabled", "/proc/sys/kernel/kexec_load_disabled",
	"/proc/sys/kernel/keys/maxkeys", "/proc/sys/kernel/kptr_restrict", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/modules_disabled", "/proc/sys/kernel/ns_last_pid",
	"/proc/sys/kernel/panic", "/proc/sys/kernel/perf_event_paranoid", "/proc/sys/kernel/poweroff_cmd", "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/randomize_va_space",
	"/proc/sys/kernel/seccomp/actions_logged", "/proc/sys/kernel/sem", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/sysrq",
	"/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/kernel/yama/ptrace_scope",
	"/proc/sys/net/core/bpf_jit_enable", "/proc/sys/net/core/somaxconn", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ping_group_range",
	"/proc/sys/user/max_user_namespaces", "/proc/sys/vm/drop_caches", "/proc/sys/vm/memfd_noexec", "/proc/sys/vm/mmap_min_addr", "/proc/sys/vm/overcommit_memory",
	"/proc/sys/vm/panic_on_oom", "/proc/sys/vm/unprivileged_userfaultfd",
	"/sys/block", "/sys/bus/pci", "/sys/class/net", "/sys/devices/system/cpu/cpu0", "/sys/devices/system/cpu/vulnerabilities/meltdown", "/sys/devices/virtual/powercap",
	"/sys/devices/virtual/dmi/id/product_uuid", "/sys/firmware", "/sys/firmware/acpi", "/sys/firmware/efi/efivars", "/sys/firmware/memmap", "/sys/fs/bpf", "/sys/fs/fuse/connections",
	"/sys/fs/pstore", "/sys/fs/selinux", "/sys/hypervisor", "/sys/kernel/boot_params/data", "/sys/kernel/config", "/sys/kernel/debug", "/sys/kernel/kexec_loaded",
	"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/notes", "/sys/kernel/profiling", "/sys/kernel/security", "/sys/kernel/security/apparmor/.load",
	"/sys/kernel/tracing", "/sys/kernel/uevent_helper", "/sys/kernel/vmcoreinfo", "/sys/module", "/sys/power/state",
	"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts", "/proc", "/sys", "/",
};

/* rdev as [type, major, minor]: a new node in the container's root, and then what opening it says. */
static const struct { const char *name; mode_t type; unsigned major, minor; } nodes[] = {
	{ "mem", S_IFCHR, 1, 1 }, { "kmem", S_IFCHR, 1, 2 }, { "null", S_IFCHR, 1, 3 }, { "port", S_IFCHR, 1, 4 }, { "zero", S_IFCHR, 1, 5 }, { "kmsg", S_IFCHR, 1, 11 },
	{ "tty", S_IFCHR, 5, 0 }, { "console", S_IFCHR, 5, 1 }, { "ptmx", S_IFCHR, 5, 2 }, { "tty1", S_IFCHR, 4, 1 }, { "ttyS0", S_IFCHR, 4, 64 }, { "pts0", S_IFCHR, 136, 0 },
	{ "hpet", S_IFCHR, 10, 228 }, { "fuse", S_IFCHR, 10, 229 }, { "kvm", S_IFCHR, 10, 232 }, { "tun", S_IFCHR, 10, 200 }, { "loop-control", S_IFCHR, 10, 237 },
	{ "vhost-net", S_IFCHR, 10, 238 }, { "userfaultfd", S_IFCHR, 10, 126 }, { "cpu0-msr", S_IFCHR, 202, 0 }, { "usb-bus", S_IFCHR, 189, 0 }, { "dri", S_IFCHR, 226, 0 },
	{ "ram0", S_IFBLK, 1, 0 }, { "loop0", S_IFBLK, 7, 0 }, { "sda", S_IFBLK, 8, 0 }, { "vda-253", S_IFBLK, 253, 0 }, { "vda-254", S_IFBLK, 254, 0 }, { "nvme0", S_IFBLK, 259, 0 },
};

static const char *const usual_devices[] = { "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "kmsg", "mem", "fuse", "kvm" };

/* Bytes or names that can be read: "missing", "denied", "empty" or "yes". Never blocks. */
static const char *readable(const char *path)
{
	struct stat status;
	char bytes[64];
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	const char *found = "empty";

	if (fd < 0)
		return errno == ENOENT ? "missing" : "denied";
	if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
		DIR *directory = fdopendir(fd);
		struct dirent *entry;

		while (directory && (entry = readdir(directory)))
			if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
				found = "yes";
		closedir(directory);
		return found;
	}
	ssize_t got = read(fd, bytes, sizeof bytes);
	/* EAGAIN of kmsg, EIO of mem at address 0: nothing was refused. */
	if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EIO)))
		found = "yes";
	else if (got < 0)
		found = "denied";
	/* Addresses of the kernel are zeroed for those who may not see them. */
	if (strcmp(path, "/proc/kallsyms") == 0 && got > 16 && strncmp(bytes, "0000000000000000", 16) == 0)
		found = "zeroed";
	close(fd);
	return found;
}

/* Whether a file opens for writing, or a directory takes a new file, which is not made: "missing", "denied" or "yes". Nothing is written. */
static const char *writable(const char *path)
{
	struct stat status;

	if (stat(path, &status) != 0)
		return errno == ENOENT ? "missing" : "denied";
	if (S_ISDIR(status.st_mode))
		return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 ? "yes" : "denied";
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return "denied";
	close(fd);
	return "yes";
}

static void path_rows(const char *path)
{
	char key[256];

	snprintf(key, sizeof key, "read:%s", path);
	row(key, "%s", readable(path));
	snprintf(key, sizeof key, "write:%s", path);
	row(key, "%s", writable(path));
}

void probe_paths(void)
{
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		path_rows(paths[i]);
}

static long attempt_node(const void *argument)
{
	size_t i = (size_t)argument;
	char path[64];

	snprintf(path, sizeof path, "/tmp/prison-%s-%d", nodes[i].name, getpid());
	if (mknod(path, nodes[i].type | 0600, makedev(nodes[i].major, nodes[i].minor)) != 0)
		return result_of(-1);
	long result = result_of(open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
	unlink(path);
	return result;
}

static void device_names(void)
{
	DIR *directory = opendir("/dev");
	struct dirent *entry;
	struct stat status;

	printf("dev-names ");
	while (directory && (entry = readdir(directory)))
		if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)))
			printf("%s,", entry->d_name);
	printf("\n");
	closedir(directory);
}

void probe_devices(void)
{
	char key[64], path[64];
	struct stat status;

	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
		snprintf(key, sizeof key, "mknod.%s", nodes[i].name);
		row(key, "%d", in_child(attempt_node, (void *)i));
	}
	for (size_t i = 0; i < sizeof usual_devices / sizeof *usual_devices; i++) {
		snprintf(path, sizeof path, "/dev/%s", usual_devices[i]);
		snprintf(key, sizeof key, "dev.%s", usual_devices[i]);
		if (stat(path, &status) != 0) {
			row(key, "missing");
			continue;
		}
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		row(key, "%d", fd < 0 ? -errno : 0);
		snprintf(key, sizeof key, "devnum.%s", usual_devices[i]);
		row(key, "%u:%u", major(status.st_rdev), minor(status.st_rdev));
		close(fd);
	}
	device_names();
}

/* One row for each mount point: flags that restrict, then how mounts propagate. The last mount of a path is the one that is seen. */
void probe_mounts(void)
{
	static const char *const restricting[] = { "ro", "nosuid", "nodev", "noexec" };
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[16384], root[4096], path[4096], options[1024], rest[4096], key[4200];
	struct stat root_of_1, own_root;

	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%*d %*d %*s %4095s %4095s %1023s %4095[^\n]", root, path, options, rest) != 4)
			continue;
		snprintf(key, sizeof key, "mount:%s", path);
		printf("%s ", key);
		for (size_t i = 0; i < sizeof restricting / sizeof *restricting; i++)
			for (char *copy = strdup(options), *word = strtok(copy, ","); word; word = strtok(NULL, ","))
				if (strcmp(word, restricting[i]) == 0)
					printf("%s,", word);
		char *end = strstr(rest, "- ");
		if (end)
			*end = '\0';
		printf("%s%s%s\n", strstr(rest, "shared:") ? "shared," : "", strstr(rest, "master:") ? "slave," : "", strncmp(root, "/..", 3) == 0 ? "outside," : "");
	}
	if (file)
		fclose(file);
	if (stat("/proc/1/root/.", &root_of_1) != 0 || stat("/", &own_root) != 0)
		row("root-of-pid-1", "denied");
	else
		row("root-of-pid-1", "%s", root_of_1.st_dev == own_root.st_dev && root_of_1.st_ino == own_root.st_ino ? "own" : "other");
}

static long attempt_mkdir(const void *argument)
{
	char path[512];

	snprintf(path, sizeof path, "%s/prison-probe-%d", (const char *)argument, getpid());
	long result = result_of(mkdir(path, 0755));
	rmdir(path);
	return result;
}

/* Whether the processes of the cgroup that is mounted there include this one: it sees its own cgroup and what is below, or more. */
static const char *cgroup_view(const char *directory)
{
	char path[512], line[64];
	FILE *file;
	const char *view = "wider";

	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	file = fopen(path, "re");
	if (!file)
		return "none";
	while (fgets(line, sizeof line, file))
		if (atoi(line) == getpid())
			view = "own";
	fclose(file);
	return view;
}

static void cgroup_rows(const char *name, const char *directory)
{
	static const char *const files[] = { "cgroup.procs", "tasks", "release_agent", "notify_on_release", "memory.limit_in_bytes", "memory.max", "devices.allow", "cgroup.subtree_control",
		"cpu.cfs_quota_us", "cpu.max", "cgroup.kill", "cgroup.freeze", "freezer.state", "pids.max" };
	char key[600], path[600];

	snprintf(key, sizeof key, "cgroup.%s", name);
	row(key, "%s", cgroup_view(directory));
	snprintf(key, sizeof key, "mkdir.cgroup.%s", name);
	row(key, "%d", in_child(attempt_mkdir, directory));
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, files[i]);
		if (access(path, F_OK) != 0)
			continue;
		snprintf(key, sizeof key, "write:cgroup.%s/%s", name, files[i]);
		row(key, "%s", writable(path));
	}
}

/* The cgroups of every mounted hierarchy: of v2 at the top, of v1 by the names of its directories. */
void probe_cgroups(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[4096];
	int outside = 0;

	while (file && fgets(line, sizeof line, file)) {
		char *path = strchr(strchr(line, ':') + 1, ':') + 1;

		outside |= strcmp(path, "/\n") != 0;
	}
	if (file)
		fclose(file);
	row("cgroup-paths", "%s", outside ? "shown" : "hidden");
	DIR *directory = opendir("/sys/fs/cgroup");
	struct dirent *entry;
	if (access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0)
		cgroup_rows("top", "/sys/fs/cgroup");
	else
		while (directory && (entry = readdir(directory))) {
			char path[400];

			snprintf(path, sizeof path, "/sys/fs/cgroup/%s", entry->d_name);
			if (entry->d_name[0] != '.')
				cgroup_rows(entry->d_name, path);
		}
	if (directory)
		closedir(directory);
	row("mkdir.cgroup-root", "%d", in_child(attempt_mkdir, "/sys/fs/cgroup"));
}
