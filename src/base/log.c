/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

static enum log_level level_max = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	level_max = level;
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARNING:
		return "warning";
	case LOG_LEVEL_NOTICE:
		return "notice";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "?";
}

/* systemd sets JOURNAL_STREAM where stderr goes to the journal, which stamps the time and reads "<N>" (sd-daemon(3)).
 */
static int put_stamp(char *line, size_t size, enum log_level level)
{
	struct timespec now;
	struct tm utc;
	char stamp[32];

	if (getenv("JOURNAL_STREAM"))
		return snprintf(line, size, "<%d>", (int)level);
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
	return snprintf(line, size, "%s.%03ldZ %-7s ", stamp, now.tv_nsec / 1000000, level_name(level));
}

void log_line(enum log_level level, const char *format, ...)
{
	char line[LOG_LINE_MAX];
	va_list args;

	if (level > level_max)
		return;
	size_t start = (size_t)put_stamp(line, sizeof(line), level);
	va_start(args, format);
	int wanted = vsnprintf(line + start, sizeof(line) - start, format, args);
	va_end(args);
	if (wanted < 0)
		return;
	size_t size = strlen(line);
	for (size_t i = start; i < size; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = ' ';
	if (size == sizeof(line) - 1)
		size--;
	line[size++] = '\n';
	ssize_t written = write(STDERR_FILENO, line, size);
	(void)written; /* see the header: a lost line is better than a daemon that waits for its log */
}
