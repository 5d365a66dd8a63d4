/* System calls of two ABIs without a C library in between, for this probe and test/root/seccomp-probe.c. x86-64 only. */
#ifndef BERTH_RAW_CALL_H
#define BERTH_RAW_CALL_H

/* Makes a call with six arguments, on x32 if the number has its bit. Returns the result, or a negative errno. */
static inline long call64(unsigned long number, const unsigned long *a)
{
	register unsigned long r10 __asm__("r10") = a[3];
	register unsigned long r8 __asm__("r8") = a[4];
	register unsigned long r9 __asm__("r9") = a[5];
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

/* Makes a call of i386 with five arguments. Returns the result, or a negative errno. */
static inline long call32(unsigned long number, const unsigned long *a)
{
	int result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]) : "r8", "r9", "r10", "r11", "memory");
	return result;
}

#endif
