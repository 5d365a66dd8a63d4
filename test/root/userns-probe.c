/* Prints what the process has in its user namespace. Usage: userns-probe ids|netns|sockets|groups|tun */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* include/uapi/linux/nsfs.h */
#define NS_GET_USERNS 0xb701
/* include/uapi/linux/if_tun.h */
#define TUNSETIFF 0x400454ca
#define IFF_TUN 0x0001
#define IFF_NO_PI 0x1000

static const char *outcome(int result) { return result >= 0 ? "ok" : strerror(errno); }

static void printIds(void) { printf("uid %d %d gid %d %d\n", getuid(), geteuid(), getgid(), getegid()); }

/* Whether the user namespace of the process owns its network namespace. */
static void printOwner(void) {
  struct stat own, owner;
  int fd = ioctl(open("/proc/self/ns/net", O_RDONLY), NS_GET_USERNS);
  if (fd < 0 || fstat(fd, &owner) != 0 || stat("/proc/self/ns/user", &own) != 0)
    printf("error: %s\n", strerror(errno));
  else
    printf("%s\n", own.st_ino == owner.st_ino && own.st_dev == owner.st_dev ? "own" : "other");
}

static void printSockets(void) {
  printf("ping %s\n", outcome(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)));
  printf("raw %s\n", outcome(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)));
}

static void printGroups(void) {
  gid_t mapped = 1234, unmapped = 70000;
  printf("mapped %s\n", outcome(setgroups(1, &mapped)));
  printf("unmapped %s\n", outcome(setgroups(1, &unmapped)));
}

static void printTun(void) {
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  int fd = open("/dev/net/tun", O_RDWR);
  printf("tun %s\n", outcome(fd < 0 ? fd : ioctl(fd, TUNSETIFF, &request)));
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "ids") == 0) printIds();
  else if (strcmp(what, "netns") == 0) printOwner();
  else if (strcmp(what, "sockets") == 0) printSockets();
  else if (strcmp(what, "groups") == 0) printGroups();
  else if (strcmp(what, "tun") == 0) printTun();
  else return 2;
  return 0;
}
