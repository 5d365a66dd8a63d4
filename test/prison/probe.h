/* What the parts of the prison probe share: see probe.c. */
#ifndef BERTH_PRISON_PROBE_H
#define BERTH_PRISON_PROBE_H

/* Prints a row: a key without spaces, a space, a value. */
void row(const char *key, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Runs a function in a child process, so that it changes nothing here. Returns 0, a negative errno, or -1000 minus the signal that killed it. */
int in_child(long (*attempt)(const void *), const void *argument);

/* Returns the result of a function of the C library as a system call returns it: negative errnos. */
long result_of(long result);

void probe_calls(void);
void probe_paths(void);
void probe_devices(void);
void probe_mounts(void);
void probe_cgroups(void);
void probe_process(void);

#endif
