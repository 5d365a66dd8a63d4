/* Exchanges two names as fast as possible until it is killed: exchange DIRECTORY NAME OTHER. Prints "ready" first. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
  const int dir = argc == 4 ? open(argv[1], O_PATH | O_DIRECTORY) : -1;
  if (dir < 0) return 1;
  puts("ready");
  fflush(stdout);
  for (;;)
    if (syscall(SYS_renameat2, dir, argv[2], dir, argv[3], 2 /* RENAME_EXCHANGE */) != 0) return 2;
}
