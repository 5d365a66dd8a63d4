/* Options of the monitor's sanitizer build. Leak detection is off: the monitor exits with _exit and cannot be traced. It does not use the heap. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:log_path=/tmp/berth-monitor-asan"; }
