/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/daemon_config.h"

#include "base/schema.h"
#include "core/timing.h"
#include "model/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <ini.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

enum key_kind { KEY_NAME, KEY_UUID, KEY_PATH, KEY_NUMBER, KEY_MIB, KEY_GROUP, KEY_LEVEL, KEY_ACCEL, KEY_TIME, KEY_LOSS };

struct key {
	const char *section;
	const char *name;
	enum key_kind kind;
	size_t offset;
	uint64_t max; /* PATH: bytes with NUL; NUMBER, MIB, TIME: value */
	bool required;
	bool live; /* a reload changes it */
};

#define AT(member) offsetof(struct daemon_config, member)
static const struct key keys[] = {
	{"cluster", "uuid", KEY_UUID, AT(cluster_uuid), 0, true},
	{"node", "name", KEY_NAME, AT(node_name), 0, true},
	{"paths", "store", KEY_PATH, AT(store_dir), PATH_BYTES, false},
	{"paths", "run", KEY_PATH, AT(run_dir), 60, false}, /* sockets below it must fit into 107 bytes */
	{"paths", "state", KEY_PATH, AT(state_dir), PATH_BYTES, true},
	{"paths", "log", KEY_PATH, AT(log_dir), PATH_BYTES, false},
	{"qemu", "binary", KEY_PATH, AT(qemu_binary), PATH_BYTES, false},
	{"qemu", "stream_helper", KEY_PATH, AT(stream_helper), PATH_BYTES, false},
	{"qemu", "uid_base", KEY_NUMBER, AT(uid_base), UINT32_MAX - 65536, true},
	{"qemu", "uid_count", KEY_NUMBER, AT(uid_count), 65536, false},
	{"qemu", "reserve_memory", KEY_MIB, AT(reserve_memory_mib), MEMORY_MIB_MAX, false},
	{"qemu", "memory", KEY_MIB, AT(memory_mib), UINT32_MAX, false},
	{"qemu", "vcpus", KEY_NUMBER, AT(vcpus), 65536, false},
	{"qemu", "accel", KEY_ACCEL, AT(no_kvm), 0, false},
	{"api", "socket", KEY_PATH, AT(api_socket), 108, false},
	{"api", "group", KEY_GROUP, AT(api_group), 0, false},
	{"fence", "agents", KEY_PATH, AT(fence_agents), PATH_BYTES, false},
	{"fence", "secrets", KEY_PATH, AT(fence_secrets), PATH_BYTES, false},
	{"log", "level", KEY_LEVEL, AT(log_level), 0, false, true},
	{"watchdog", "device", KEY_PATH, AT(watchdog_device), PATH_BYTES, false, true},
	{"watchdog", "timeout", KEY_TIME, AT(watchdog_ms), WATCHDOG_MAX_MS, false, true},
	{"watchdog", "quorum_loss", KEY_LOSS, AT(quorum_loss_stop), 0, false},
};
#undef AT

struct reading {
	struct daemon_config *config;
	struct err err; /* of the first bad line */
	bool failed;
	bool seen[ARRAY_SIZE(keys)];
};

static int parse_number(const char *text, uint64_t max, uint64_t *number, const char **rest)
{
	char *end;

	errno = 0;
	if (*text < '0' || *text > '9')
		return -1;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || value > max)
		return -1;
	*number = value;
	*rest = end;
	return 0;
}

static int set_number(const struct key *key, const char *text, uint32_t *to, struct err *err)
{
	const char *rest;
	uint64_t number;

	if (parse_number(text, key->max, &number, &rest) < 0 || *rest)
		return err_set(err, ERR_INVALID, "%s=%.64s: a whole number from 0 to %llu", key->name, text,
			(unsigned long long)key->max);
	*to = (uint32_t)number;
	return 0;
}

static int set_mib(const struct key *key, const char *text, uint32_t *to, struct err *err)
{
	const char *rest;
	uint64_t number;

	if (parse_number(text, key->max, &number, &rest) < 0 || (strcmp(rest, "M") != 0 && strcmp(rest, "G") != 0) ||
		number * (*rest == 'G' ? 1024 : 1) > key->max)
		return err_set(err, ERR_INVALID, "%s=%.64s: a size such as 512M or 4G, at most %lluM", key->name, text,
			(unsigned long long)key->max);
	*to = (uint32_t)(number * (*rest == 'G' ? 1024 : 1));
	return 0;
}

static int set_time(const struct key *key, const char *text, uint32_t *to, struct err *err)
{
	const char *rest;
	uint64_t number;

	if (parse_number(text, key->max, &number, &rest) == 0) {
		number *= !strcmp(rest, "s") ? 1000 : 1;
		if ((!strcmp(rest, "s") || !strcmp(rest, "ms")) && number >= WATCHDOG_MIN_MS && number <= key->max) {
			*to = (uint32_t)number;
			return 0;
		}
	}
	return err_set(err, ERR_INVALID, "%s=%.64s: a time such as 5000ms or 10s, from %d ms to %llu ms", key->name, text,
		WATCHDOG_MIN_MS, (unsigned long long)key->max);
}

static int set_path(const struct key *key, const char *text, char *to, struct err *err)
{
	size_t length = strlen(text);

	if (length >= key->max)
		return err_set(err, ERR_INVALID, "%s: %zu bytes, at most %llu are allowed", key->name, length,
			(unsigned long long)key->max - 1);
	if (text[0] != '/' || strstr(text, "/../") || strstr(text, "//") ||
		(length >= 3 && !strcmp(text + length - 3, "/..")) || (length > 1 && text[length - 1] == '/'))
		return err_set(err, ERR_INVALID, "%s=%s: an absolute path without '..', '//' and a '/' at its end",
			key->name, text);
	strcpy(to, text);
	return 0;
}

static int set_uuid(const struct key *key, const char *text, char *to, struct err *err)
{
	size_t length = strlen(text);
	bool ok = length == UUID_BYTES - 1;

	for (size_t i = 0; ok && i < length; i++)
		ok = i == 8 || i == 13 || i == 18 || i == 23 ? text[i] == '-'
							     : strchr("0123456789abcdef", text[i]) != NULL;
	if (!ok)
		return err_set(err, ERR_INVALID, "%s=%.64s: a UUID in lower case (uuidgen makes one)", key->name, text);
	strcpy(to, text);
	return 0;
}

static int set_group(const struct key *key, const char *text, gid_t *to, struct err *err)
{
	const struct group *group = getgrnam(text);

	if (!group)
		return err_set(err, ERR_INVALID, "%s=%.64s: there is no such group", key->name, text);
	*to = group->gr_gid;
	return 0;
}

static int set_level(const struct key *key, const char *text, enum log_level *to, struct err *err)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {{"error", LOG_LEVEL_ERROR}, {"warning", LOG_LEVEL_WARNING}, {"notice", LOG_LEVEL_NOTICE},
		{"info", LOG_LEVEL_INFO}, {"debug", LOG_LEVEL_DEBUG}};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcmp(levels[i].name, text) != 0)
			continue;
		*to = levels[i].level;
		return 0;
	}
	return err_set(err, ERR_INVALID, "%s=%.64s: one of error, warning, notice, info, debug", key->name, text);
}

static int set_value(const struct key *key, const char *text, struct daemon_config *config, struct err *err)
{
	void *to = (char *)config + key->offset;

	switch (key->kind) {
	case KEY_NAME:
		if (!name_ok(text))
			return err_set(err, ERR_INVALID,
				"%s=%.64s: 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-', the first a letter or digit",
				key->name, text);
		strcpy(to, text);
		return 0;
	case KEY_UUID:
		return set_uuid(key, text, to, err);
	case KEY_PATH:
		return set_path(key, text, to, err);
	case KEY_NUMBER:
		return set_number(key, text, to, err);
	case KEY_MIB:
		return set_mib(key, text, to, err);
	case KEY_GROUP:
		return set_group(key, text, to, err);
	case KEY_LEVEL:
		return set_level(key, text, to, err);
	case KEY_TIME:
		return set_time(key, text, to, err);
	case KEY_LOSS:
		if (strcmp(text, "keep") != 0 && strcmp(text, "stop") != 0)
			return err_set(err, ERR_INVALID, "%s=%.64s: keep or stop", key->name, text);
		*(bool *)to = !strcmp(text, "stop");
		return 0;
	case KEY_ACCEL:
		if (strcmp(text, "auto") != 0 && strcmp(text, "tcg") != 0)
			return err_set(err, ERR_INVALID, "%s=%.64s: auto (KVM where it works) or tcg", key->name, text);
		*(bool *)to = !strcmp(text, "tcg");
		return 0;
	}
	return -1;
}

static int take_line(struct reading *reading, const char *section, const char *name, const char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].section, section) != 0 || strcmp(keys[i].name, name) != 0)
			continue;
		if (reading->seen[i])
			return err_set(&reading->err, ERR_INVALID, "[%s] %s is given twice", section, name);
		reading->seen[i] = true;
		return set_value(&keys[i], value, reading->config, &reading->err);
	}
	return err_set(&reading->err, ERR_INVALID, "unknown key '%.64s' in section [%.64s]", name, section);
}

/* libinih: 0 marks the line as bad, and the first bad line's number is what the parser returns. */
static int on_pair(void *ctx, const char *section, const char *name, const char *value)
{
	struct reading *reading = ctx;

	if (reading->failed)
		return 0;
	reading->failed = take_line(reading, section, name, value ? value : "") < 0;
	return !reading->failed;
}

/* What the parser would let pass: overlong lines (it cuts them), sections without keys, control characters. */
static int check_line(const char *line, size_t length, struct err *err)
{
	char section[CONFIG_LINE_MAX];

	if (length > CONFIG_LINE_MAX)
		return err_set(
			err, ERR_INVALID, "a line of %zu bytes, at most %d are allowed", length, CONFIG_LINE_MAX);
	for (size_t i = 0, word; i < length; i += word + 1) { /* tabs are the one control character allowed */
		const char *tab = memchr(line + i, '\t', length - i);
		word = tab ? (size_t)(tab - line) - i : length - i;
		if (!schema_text_ok(line + i, word))
			return err_set(err, ERR_INVALID, "control characters and invalid UTF-8 are not allowed");
	}
	if (length && (line[0] == ' ' || line[0] == '\t') && strspn(line, " \t") < length)
		return err_set(err, ERR_INVALID, "a line that begins with a blank");
	if (!length || line[0] != '[')
		return 0;
	const char *end = memchr(line, ']', length);
	if (!end)
		return err_set(err, ERR_INVALID, "'[' without ']'");
	snprintf(section, sizeof(section), "%.*s", (int)(end - line - 1), line + 1);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(keys[i].section, section))
			return 0;
	return err_set(err, ERR_INVALID, "unknown section [%.64s]", section);
}

/* The parser does not tell which line a value came from; that of the watchdog's time is needed later. */
static void note_line(const char *line, size_t length, unsigned number, bool *in_watchdog, uint32_t *watchdog_line)
{
	if (length && line[0] == '[')
		*in_watchdog = length > 9 && !strncmp(line, "[watchdog]", 10);
	else if (*in_watchdog && ((length > 7 && !strncmp(line, "timeout", 7)) ||
					 (length > 6 && !strncmp(line, "device", 6) && !*watchdog_line)))
		*watchdog_line = number;
}

static int check_lines(const char *name, const char *text, uint32_t *watchdog_line, struct err *err)
{
	bool in_watchdog = false;

	for (unsigned number = 1; *text; number++) {
		size_t length = strcspn(text, "\n");
		if (check_line(text, length, err) < 0)
			return err_prefix(err, "%s:%u", name, number);
		note_line(text, length, number, &in_watchdog, watchdog_line);
		text += length + (text[length] == '\n');
	}
	return 0;
}

int daemon_config_parse(const char *name, const char *text, size_t size, struct daemon_config *config, struct err *err)
{
	struct daemon_config parsed = {
		.store_dir = "/var/lib/watari",
		.run_dir = "/run/watari",
		.log_dir = "/var/log/watari",
		.qemu_binary = "/usr/bin/qemu-system-x86_64",
		.api_group = (gid_t)-1,
		.log_level = LOG_LEVEL_INFO,
		.watchdog_ms = WATCHDOG_DEFAULT_MS,
		.fence_agents = "/usr/sbin",
		.fence_secrets = "/etc/watari/secret",
	};
	struct reading reading = {.config = &parsed};
	CLEANUP_FREE char *copy = strndup(text, size);

	if (!copy)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (strlen(copy) != size)
		return err_set(err, ERR_INVALID, "%s: a NUL byte", name);
	if (check_lines(name, copy, &parsed.watchdog_line, err) < 0)
		return -1;
	int bad_line = ini_parse_string(copy, on_pair, &reading);
	if (reading.failed)
		return err_set(err, ERR_INVALID, "%s:%d: %s", name, bad_line, reading.err.text);
	if (bad_line)
		return err_set(err, ERR_INVALID, "%s:%d: neither a [section] nor key=value", name, bad_line);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].required && !reading.seen[i])
			return err_set(
				err, ERR_INVALID, "%s: [%s] %s= is missing", name, keys[i].section, keys[i].name);
	if (!parsed.api_socket[0])
		snprintf(parsed.api_socket, sizeof(parsed.api_socket), "%.60s/api.sock", parsed.run_dir);
	*config = parsed;
	return 0;
}

int daemon_config_check_token(const char *name, const struct daemon_config *config, uint32_t token_ms, struct err *err)
{
	uint64_t needed = timing_watchdog_needed_ms(token_ms);

	if (!config->watchdog_device[0] || !token_ms || needed <= config->watchdog_ms)
		return 0;
	return err_set(err, ERR_INVALID,
		"%s:%u: a watchdog of %u ms is too short for corosync's token of %u ms: at least timeout=%llus, or a "
		"shorter token in corosync.conf",
		name, config->watchdog_line, config->watchdog_ms, token_ms, (unsigned long long)(needed + 999) / 1000);
}

static size_t key_size(const struct key *key)
{
	switch (key->kind) {
	case KEY_NAME:
	case KEY_UUID:
	case KEY_PATH:
		return 0; /* compared as texts */
	case KEY_NUMBER:
	case KEY_MIB:
	case KEY_TIME:
		return sizeof(uint32_t);
	case KEY_GROUP:
		return sizeof(gid_t);
	case KEY_LEVEL:
		return sizeof(enum log_level);
	case KEY_ACCEL:
	case KEY_LOSS:
		return sizeof(bool);
	}
	return 0;
}

const char *daemon_config_needs_restart(const struct daemon_config *a, const struct daemon_config *b, char text[96])
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *left = (const char *)a + keys[i].offset, *right = (const char *)b + keys[i].offset;
		size_t size = key_size(&keys[i]);
		if (keys[i].live || (size ? !memcmp(left, right, size) : !strcmp(left, right)))
			continue;
		snprintf(text, 96, "[%s] %s", keys[i].section, keys[i].name);
		return text;
	}
	return NULL;
}

int daemon_config_read(const char *path, struct daemon_config *config, struct err *err)
{
	CLEANUP_FREE char *text = malloc(CONFIG_BYTES_MAX + 1);
	struct stat st;
	size_t size = 0;

	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (!text)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: not a file", path);
	/* It names programs that run as root. */
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(err, ERR_DENIED, "%s: must belong to root and be writable by nobody else", path);
	for (ssize_t got = 1; got > 0 && size <= CONFIG_BYTES_MAX; size += (size_t)got) {
		got = read(fd, text + size, CONFIG_BYTES_MAX + 1 - size);
		if (got < 0)
			return err_errno(err, errno, "%s", path);
	}
	if (size > CONFIG_BYTES_MAX)
		return err_set(err, ERR_INVALID, "%s: more than %d bytes", path, CONFIG_BYTES_MAX);
	return daemon_config_parse(path, text, size, config, err);
}
