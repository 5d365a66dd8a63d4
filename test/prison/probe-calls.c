/* Which system calls and kinds of sockets reach the kernel: rows with the errno of calls whose arguments fail. */
#define _GNU_SOURCE
#include "probe.h"
#include "raw-call.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { x32 = 0x40000000, no_pid = 0x3fffffff };
/* An address that no process can have mapped, and a file descriptor that is not open. */
#define BAD 1ul
#define NOFD ((unsigned long)-1)

struct call {
	const char *name;
	unsigned long number, arguments[6];
};

/* Each fails, or does nothing, when it reaches the kernel with every privilege. */
static const struct call calls[] = {
	{ "mount", 165, { BAD, BAD, BAD, 0, 0 } },
	{ "umount2", 166, { BAD, 0 } },
	{ "umount2-bad-flags", 166, { BAD, 0xffff0000 } },
	{ "pivot_root", 155, { BAD, BAD } },
	{ "chroot", 161, { BAD } },
	{ "open_tree", 428, { NOFD, BAD, 0 } },
	{ "open_tree-clone", 428, { NOFD, BAD, 1 } },
	{ "move_mount", 429, { NOFD, BAD, NOFD, BAD, 0xffff0000 } },
	{ "fsopen", 430, { BAD, 0 } },
	{ "fsconfig", 431, { NOFD, 99, 0, 0, 0 } },
	{ "fsmount", 432, { NOFD, 0, 0 } },
	{ "fspick", 433, { NOFD, BAD, 0 } },
	{ "mount_setattr", 442, { NOFD, BAD, 0, 0, 0 } },
	{ "open_tree_attr", 467, { NOFD, BAD, 0, 0, 0 } },
	{ "statmount", 457, { BAD, 0, 0, 0 } },
	{ "listmount", 458, { BAD, 0, 0, 0 } },
	{ "swapon", 167, { BAD, 0 } },
	{ "swapoff", 168, { BAD } },
	{ "quotactl", 179, { 255, 0, 0, 0 } },
	{ "quotactl_fd", 443, { NOFD, 255, 0, 0 } },
	{ "setns", 308, { NOFD, 0 } },
	{ "bpf", 321, { NOFD, 0, 0 } },
	{ "perf_event_open", 298, { BAD, 0, NOFD, NOFD, 0 } },
	{ "userfaultfd", 323, { 0x4001 } },
	{ "io_uring_setup", 425, { 0, BAD } },
	{ "io_uring_enter", 426, { NOFD, 0, 0, 0, 0, 0 } },
	{ "io_uring_register", 427, { NOFD, 0, 0, 0 } },
	{ "keyctl", 250, { 9999 } },
	{ "add_key", 248, { BAD, BAD, 0, 0, 0 } },
	{ "request_key", 249, { BAD, BAD, 0, 0 } },
	{ "kexec_load", 246, { 0, 1000, BAD, 0xffff } },
	{ "kexec_file_load", 320, { NOFD, NOFD, 0, 0, 0xffff } },
	{ "init_module", 175, { BAD, 0, BAD } },
	{ "finit_module", 313, { NOFD, BAD, 0xffff } },
	{ "delete_module", 176, { BAD, 0 } },
	{ "create_module", 174, { BAD, 0 } },
	{ "query_module", 178, { BAD, 0, 0, 0, 0 } },
	{ "name_to_handle_at", 303, { NOFD, BAD, BAD, BAD, 0 } },
	{ "open_by_handle_at", 304, { NOFD, BAD, 0 } },
	{ "fanotify_init", 300, { 0x80000200, 0 } },
	{ "fanotify_mark", 301, { NOFD, 0, 0, NOFD, 0 } },
	{ "acct", 163, { BAD } },
	{ "reboot", 169, { 0, 0, 0, 0 } },
	{ "sethostname", 170, { BAD, NOFD } },
	{ "setdomainname", 171, { BAD, NOFD } },
	{ "syslog-read", 103, { 3, 0, 0 } },
	{ "syslog-size", 103, { 10, 0, 0 } },
	{ "ptrace", 101, { 2, no_pid, 0, 0 } },
	{ "process_vm_readv", 310, { no_pid, 0, 0, 0, 0, 1 } },
	{ "process_vm_writev", 311, { no_pid, 0, 0, 0, 0, 1 } },
	{ "process_madvise", 440, { NOFD, 0, 0, 0, 0 } },
	{ "process_mrelease", 448, { NOFD, 1 } },
	{ "kcmp", 312, { no_pid, no_pid, 0, 0, 0 } },
	{ "pidfd_getfd", 438, { NOFD, 0, 0 } },
	{ "pidfd_open", 434, { no_pid, 0 } },
	{ "personality-query", 135, { 0xffffffff } },
	{ "personality-no-randomize", 135, { 0x40000 } },
	{ "personality-svr4", 135, { 0x4100001 } },
	{ "iopl", 172, { 99 } },
	{ "ioperm", 173, { 70000, 1, 1 } },
	{ "modify_ldt", 154, { 0, 0, 0 } },
	{ "arch_prctl", 158, { 0x9999, 0 } },
	{ "lookup_dcookie", 212, { 0, 0, 0 } },
	{ "nfsservctl", 180, { 0, 0, 0 } },
	{ "uselib", 134, { BAD } },
	{ "ustat", 136, { 0, BAD } },
	{ "sysfs", 139, { 99, 0, 0 } },
	{ "_sysctl", 156, { BAD } },
	{ "vhangup", 153, { 0 } },
	{ "settimeofday", 164, { BAD, 0 } },
	{ "clock_settime", 227, { 0, BAD } },
	{ "adjtimex", 159, { BAD } },
	{ "clock_adjtime", 305, { 0, BAD } },
	{ "mbind", 237, { 0, 0, 0, 0, 0, 0xffff } },
	{ "set_mempolicy", 238, { 99, 0, 0 } },
	{ "get_mempolicy", 239, { 0, 0, 0, 0, 0xffff } },
	{ "set_mempolicy_home_node", 450, { 0, 0, 99, 1 } },
	{ "move_pages", 279, { 0, 0, 0, 0, 0, 0xffff } },
	{ "migrate_pages", 256, { no_pid, 0, 0, 0 } },
	{ "memfd_secret", 447, { 0xffff } },
	{ "landlock_create_ruleset", 444, { 0, 0, 1 } },
	{ "landlock_restrict_self", 446, { NOFD, 0 } },
	{ "seccomp", 317, { 99, 0, 0 } },
	{ "sched_setscheduler", 144, { 0, 99, BAD } },
	{ "sched_setattr", 314, { 0, BAD, 0 } },
	{ "setpriority-up", 141, { 0, 0, (unsigned long)-20 } },
	{ "ioprio_set-realtime", 251, { 1, 0, 1 << 13 } },
	{ "map_shadow_stack", 453, { 1, 1, 0xffff } },
	{ "cachestat", 451, { NOFD, BAD, BAD, 0 } },
	{ "lsm_set_self_attr", 460, { 0, BAD, 0, 0 } },
	{ "mseal", 462, { 1, 1, 0xffff } },
	{ "uretprobe", 335, { 0 } },
	{ "unknown-600", 600, { 0 } },
	{ "unknown-1000", 1000, { 0 } },
	{ "x32-getpid", x32 + 39, { 0 } },
	{ "x32-keyctl", x32 + 250, { 9999 } },
	{ "x32-bpf", x32 + 321, { NOFD, 0, 0 } },
	{ "x32-ptrace", x32 + 521, { 2, no_pid, 0, 0 } },
};

/* Through int 0x80, with the numbers of i386. */
static const struct call calls32[] = {
	{ "getpid", 20, { 0 } },
	{ "mount", 21, { BAD, BAD, BAD, 0, 0 } },
	{ "ptrace", 26, { 2, no_pid, 0, 0 } },
	{ "modify_ldt", 123, { 0, 0, 0 } },
	{ "add_key", 286, { BAD, BAD, 0, 0, 0 } },
	{ "keyctl", 288, { 9999 } },
	{ "unshare-user", 310, { CLONE_NEWUSER } },
	{ "perf_event_open", 336, { BAD, 0, NOFD, NOFD, 0 } },
	{ "setns", 346, { NOFD, 0 } },
	{ "bpf", 357, { NOFD, 0, 0 } },
	{ "userfaultfd", 374, { 0x4001 } },
	{ "io_uring_setup", 425, { 0, BAD } },
	{ "clone3", 435, { BAD, 0 } },
	{ "vm86", 166, { 99, 0 } },
	{ "unknown-1000", 1000, { 0 } },
};

static const struct { const char *name; unsigned long flag; } namespaces[] = {
	{ "cgroup", CLONE_NEWCGROUP }, { "ipc", CLONE_NEWIPC }, { "mnt", CLONE_NEWNS }, { "net", CLONE_NEWNET },
	{ "pid", CLONE_NEWPID }, { "time", 0x80 }, { "user", CLONE_NEWUSER }, { "uts", CLONE_NEWUTS },
};

static const struct { const char *name; int family, type, protocol; } sockets[] = {
	{ "unix", AF_UNIX, SOCK_STREAM, 0 }, { "inet", AF_INET, SOCK_STREAM, 0 }, { "inet6", AF_INET6, SOCK_STREAM, 0 },
	{ "inet-raw", AF_INET, SOCK_RAW, 1 }, { "inet6-raw", AF_INET6, SOCK_RAW, 58 }, { "inet-ping", AF_INET, SOCK_DGRAM, 1 },
	{ "inet-mptcp", AF_INET, SOCK_STREAM, 262 }, { "inet-sctp", AF_INET, SOCK_STREAM, 132 },
	{ "packet-raw", AF_PACKET, SOCK_RAW, 0 }, { "packet-dgram", AF_PACKET, SOCK_DGRAM, 0 },
	{ "netlink-route", AF_NETLINK, SOCK_RAW, 0 }, { "netlink-sock_diag", AF_NETLINK, SOCK_RAW, 4 }, { "netlink-xfrm", AF_NETLINK, SOCK_RAW, 6 },
	{ "netlink-audit", AF_NETLINK, SOCK_RAW, 9 }, { "netlink-connector", AF_NETLINK, SOCK_RAW, 11 },
	{ "netlink-netfilter", AF_NETLINK, SOCK_RAW, 12 }, { "netlink-uevent", AF_NETLINK, SOCK_RAW, 15 },
	{ "netlink-generic", AF_NETLINK, SOCK_RAW, 16 }, { "netlink-crypto", AF_NETLINK, SOCK_RAW, 21 },
	{ "alg", 38, SOCK_SEQPACKET, 0 }, { "vsock", 40, SOCK_STREAM, 0 }, { "key", 15, SOCK_RAW, 2 }, { "bluetooth", 31, SOCK_RAW, 1 },
	{ "tipc", 30, SOCK_SEQPACKET, 0 }, { "rds", 21, SOCK_SEQPACKET, 0 }, { "xdp", 44, SOCK_RAW, 0 }, { "can", 29, SOCK_RAW, 1 },
	{ "smc", 43, SOCK_STREAM, 0 }, { "kcm", 41, SOCK_DGRAM, 0 }, { "nfc", 39, SOCK_SEQPACKET, 1 }, { "qipcrtr", 42, SOCK_DGRAM, 0 },
	{ "pppox", 24, SOCK_STREAM, 0 }, { "llc", 26, SOCK_STREAM, 0 }, { "caif", 37, SOCK_SEQPACKET, 0 }, { "phonet", 35, SOCK_DGRAM, 0 },
	{ "ieee802154", 36, SOCK_DGRAM, 0 }, { "mctp", 45, SOCK_DGRAM, 0 }, { "x25", 9, SOCK_SEQPACKET, 0 }, { "ax25", 3, SOCK_SEQPACKET, 0 },
	{ "iucv", 32, SOCK_STREAM, 0 }, { "unknown", 60, SOCK_STREAM, 0 },
};

static long attempt64(const void *argument)
{
	const struct call *call = argument;

	return call64(call->number, call->arguments);
}

static long attempt32(const void *argument)
{
	const struct call *call = argument;

	return call32(call->number, call->arguments);
}

static long attempt_clone(const void *argument)
{
	unsigned long arguments[6] = { *(const unsigned long *)argument | SIGCHLD };
	long result = call64(SYS_clone, arguments);

	if (result == 0)
		_exit(0);
	return result;
}

static long attempt_clone3(const void *argument)
{
	unsigned long clone_args[8] = { *(const unsigned long *)argument, [4] = SIGCHLD };
	unsigned long arguments[6] = { (unsigned long)clone_args, sizeof clone_args };
	long result = call64(435, arguments);

	if (result == 0)
		_exit(0);
	return result;
}

static long attempt_unshare(const void *argument)
{
	unsigned long arguments[6] = { *(const unsigned long *)argument };

	return call64(SYS_unshare, arguments);
}

/* socketcall(SYS_SOCKET) of i386: its arguments are in memory, where a filter cannot see them. */
static long attempt_socketcall(const void *argument)
{
	unsigned *values = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct call call = { "", 102, { 1, (unsigned long)values } };

	if (values == MAP_FAILED)
		return -1;
	values[0] = *(const unsigned long *)argument;
	values[1] = values[0] == 38 ? SOCK_SEQPACKET : SOCK_STREAM;
	values[2] = 0;
	return attempt32(&call);
}

static void row_of(const char *kind, const char *name, int result)
{
	char key[64];

	snprintf(key, sizeof key, "%s.%s", kind, name);
	row(key, "%d", result);
}

void probe_calls(void)
{
	static const struct { const char *name; unsigned long family; } through32[] = { { "alg", 38 }, { "vsock", 40 }, { "unix", 1 }, { "inet", 2 } };

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		row_of("call", calls[i].name, in_child(attempt64, &calls[i]));
	for (size_t i = 0; i < sizeof calls32 / sizeof *calls32; i++)
		row_of("call32", calls32[i].name, in_child(attempt32, &calls32[i]));
	for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
		row_of("unshare", namespaces[i].name, in_child(attempt_unshare, &namespaces[i].flag));
		row_of("clone3", namespaces[i].name, in_child(attempt_clone3, &namespaces[i].flag));
		/* clone() has no flag for time namespaces: the bit is part of the signal. */
		if (namespaces[i].flag != 0x80)
			row_of("clone", namespaces[i].name, in_child(attempt_clone, &namespaces[i].flag));
	}
	for (size_t i = 0; i < sizeof sockets / sizeof *sockets; i++) {
		int fd = socket(sockets[i].family, sockets[i].type | SOCK_CLOEXEC, sockets[i].protocol);

		row_of("socket", sockets[i].name, result_of(fd) < 0 ? result_of(fd) : 0);
		close(fd);
	}
	for (size_t i = 0; i < sizeof through32 / sizeof *through32; i++)
		row_of("socketcall", through32[i].name, in_child(attempt_socketcall, &through32[i].family));
}
