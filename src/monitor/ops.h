/*
 * The table of operations, in the order of src/engine/plan/calls.ts. A test compares the two tables.
 *
 * X(name, system call number, kinds of its arguments). Kinds in the plan: F fd register, L 64-bit number, S text, B bytes, H R C I bytes of exactly
 * 8, 16, 24, 64. Kinds supplied by the monitor: N length of the preceding bytes, G number of 4-byte ids in the following bytes, Z null, 0-9 that number.
 * System call number -1: implemented by a function in ops.c.
 */
#ifndef BERTH_OPS_H
#define BERTH_OPS_H

#define OPERATIONS(X) \
  X(openat, SYS_openat, "FSLL") \
  X(openat2, SYS_openat2, "FSBN") \
  X(close, SYS_close, "F") \
  X(close_range, SYS_close_range, "LLL") \
  X(dup3, SYS_dup3, "FLL") \
  X(mkdirat, SYS_mkdirat, "FSL") \
  X(mknodat, SYS_mknodat, "FSLL") \
  X(symlinkat, SYS_symlinkat, "SFS") \
  X(unlinkat, SYS_unlinkat, "FSL") \
  X(fchownat, SYS_fchownat, "FSLLL") \
  X(fchmodat, SYS_fchmodat, "FSL") \
  X(fchown, SYS_fchown, "FLL") \
  X(fchmod, SYS_fchmod, "FL") \
  X(write, SYS_write, "FBN") \
  X(chdir, SYS_chdir, "S") \
  X(fchdir, SYS_fchdir, "F") \
  X(chroot, SYS_chroot, "S") \
  X(pivot_root, SYS_pivot_root, "SS") \
  X(mount, SYS_mount, "SSSLS") \
  X(umount2, SYS_umount2, "SL") \
  X(fsopen, SYS_fsopen, "SL") \
  X(fsconfig_flag, SYS_fsconfig, "F0SZ0") \
  X(fsconfig_string, SYS_fsconfig, "F1SS0") \
  X(fsconfig_fd, SYS_fsconfig, "F5SZF") \
  X(fsconfig_create, SYS_fsconfig, "F6ZZ0") \
  X(fsmount, SYS_fsmount, "FLL") \
  X(open_tree, SYS_open_tree, "FSL") \
  X(move_mount, SYS_move_mount, "FSFSL") \
  X(mount_setattr, SYS_mount_setattr, "FSLBN") \
  X(setns, SYS_setns, "FL") \
  X(unshare, SYS_unshare, "L") \
  X(setsid, SYS_setsid, "") \
  X(sethostname, SYS_sethostname, "BN") \
  X(setdomainname, SYS_setdomainname, "BN") \
  X(prctl, SYS_prctl, "LLLLL") \
  X(capset, SYS_capset, "HC") \
  X(setgroups, SYS_setgroups, "GB") \
  X(setresuid, SYS_setresuid, "LLL") \
  X(setresgid, SYS_setresgid, "LLL") \
  X(prlimit64, SYS_prlimit64, "0LRZ") \
  X(umask, SYS_umask, "L") \
  X(ioctl, SYS_ioctl, "FLL") \
  X(ioctl_struct, SYS_ioctl, "FLI") \
  X(socket, SYS_socket, "LLL") \
  X(bind, SYS_bind, "FBN") \
  X(listen, SYS_listen, "FL") \
  X(keyctl, SYS_keyctl, "LS") \
  X(keyctl_setperm, SYS_keyctl, "5LL") \
  X(seccomp, -1, "LB") \
  X(execve, -1, "S") \
  X(reap, -1, "") \
  X(sendterminal, -1, "F") \
  X(sendfd, -1, "FF") \
  X(move, -1, "L") \
  X(hold, -1, "F") \
  X(expect_fs, -1, "FL") \
  X(refuse_fs, -1, "FL") \
  X(expect_device, -1, "FL") \
  X(expect_inside, -1, "")

#define OP_CODE(name, number, kinds) OP_##name,
enum { OPERATIONS(OP_CODE) OP_COUNT };
#undef OP_CODE

#endif
