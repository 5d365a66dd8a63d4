/* For the sanitizer build of the monitor: it ends by _exit and cannot be traced, so leaks cannot be looked for; it allocates nothing anyway. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:log_path=/tmp/berth-monitor-asan"; }
