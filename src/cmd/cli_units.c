/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/cli.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Digits alone: no sign, no blank, no overflow. *rest is what follows them. */
static bool digits(const char *text, uint64_t *number, const char **rest)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || value > INT64_MAX)
		return false;
	*number = value;
	*rest = end;
	return true;
}

int units_parse_number(const char *text, uint64_t *number, struct err *err)
{
	const char *rest;
	uint64_t value;

	if (!digits(text, &value, &rest) || *rest)
		return err_set(err, ERR_INVALID, "'%.64s': a whole number from 0 to %lld", text, (long long)INT64_MAX);
	*number = value;
	return 0;
}

int units_parse_mib(const char *text, uint64_t *mib, struct err *err)
{
	static const struct {
		const char *suffix;
		uint64_t mib;
	} units[] = {
		{"", 1}, {"M", 1}, {"MiB", 1}, {"G", 1024}, {"GiB", 1024}, {"T", 1024 * 1024}, {"TiB", 1024 * 1024}};
	const char *rest;
	uint64_t value;

	for (size_t i = 0; digits(text, &value, &rest) && i < ARRAY_SIZE(units); i++) {
		if (strcasecmp(rest, units[i].suffix) != 0)
			continue;
		if (value > INT64_MAX / units[i].mib)
			break;
		*mib = value * units[i].mib;
		return 0;
	}
	return err_set(err, ERR_INVALID, "'%.64s': a size is a whole number with M, G or T: 512M, 2G", text);
}

int units_parse_seconds(const char *text, uint64_t *ms, struct err *err)
{
	static const struct {
		const char *suffix;
		uint64_t ms;
	} units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
	const char *rest;
	uint64_t value;

	for (size_t i = 0; digits(text, &value, &rest) && i < ARRAY_SIZE(units); i++) {
		if (strcmp(rest, units[i].suffix) != 0)
			continue;
		if (value > INT64_MAX / units[i].ms)
			break;
		*ms = value * units[i].ms;
		return 0;
	}
	return err_set(err, ERR_INVALID, "'%.64s': a time span is a whole number with s, m, h or d: 90s, 5m, 2h", text);
}

/* "10:02" and "10:02:30": today, or yesterday where that is still to come. */
static bool parse_clock(const char *text, uint64_t now_ms, uint64_t *ms)
{
	static const char *const forms[] = {"%H:%M:%S", "%H:%M"};
	time_t now = (time_t)(now_ms / 1000);

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		struct tm tm;
		localtime_r(&now, &tm);
		tm.tm_sec = 0;
		tm.tm_isdst = -1;
		const char *end = strptime(text, forms[i], &tm);
		if (!end || *end)
			continue;
		time_t seconds = mktime(&tm);
		if (seconds > now) {
			tm.tm_mday--;
			tm.tm_isdst = -1;
			seconds = mktime(&tm);
		}
		*ms = seconds > 0 ? (uint64_t)seconds * 1000 : 0;
		return true;
	}
	return false;
}

/* "5 min ago", "2h ago", "10m" */
static bool parse_ago(const char *text, uint64_t *span_ms)
{
	static const struct {
		const char *word, *unit;
	} words[] = {{"second", "s"}, {"seconds", "s"}, {"sec", "s"}, {"minute", "m"}, {"minutes", "m"}, {"mins", "m"},
		{"hour", "h"}, {"hours", "h"}, {"day", "d"}, {"days", "d"}};
	char number[24], unit[12] = "", span[40];
	int used = 0;

	if (!units_parse_seconds(text, span_ms, NULL))
		return true;
	if (sscanf(text, "%23[0-9] %11[a-z]%n", number, unit, &used) != 2 || !used ||
		(text[used] && strcmp(text + used, " ago") != 0))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(unit, words[i].word))
			strcpy(unit, words[i].unit);
	snprintf(span, sizeof(span), "%s%s", number, unit);
	return !units_parse_seconds(span, span_ms, NULL);
}

int units_parse_since(const char *text, uint64_t now_ms, uint64_t *ms, struct err *err)
{
	static const char *const forms[] = {
		"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"};
	uint64_t span;

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *end = strptime(text, forms[i], &tm);
		bool utc = end && !strcmp(end, "Z");
		time_t seconds = utc ? timegm(&tm) : end && !*end ? mktime(&tm) : -1;
		if (seconds < 0)
			continue;
		*ms = (uint64_t)seconds * 1000;
		return 0;
	}
	if (parse_clock(text, now_ms, ms))
		return 0;
	if (!parse_ago(text, &span))
		return err_set(err, ERR_INVALID,
			"'%.64s': a time is a span (10m, 2h, '5 min ago'), one of the day (10:02) or a date (2024-05-01, "
			"'2024-05-01 12:00', 2024-05-01T12:00:00Z)",
			text);
	*ms = span < now_ms ? now_ms - span : 0;
	return 0;
}

/* What an option of the form VALUE,key=value,flag may hold. */
struct part_rule {
	const char *key;
	const char *json;  /* its name in the definition */
	const char *names; /* the values allowed; NULL: any */
	bool flag;
};

static int take_part(const char *what, const struct part_rule *rules, size_t count, const char *part, size_t length,
	json_t *object, struct err *err)
{
	size_t key_length = length;
	const char *equals = memchr(part, '=', length);

	if (equals)
		key_length = (size_t)(equals - part);
	for (size_t i = 0; i < count; i++) {
		const struct part_rule *rule = &rules[i];
		if (strlen(rule->key) != key_length || memcmp(rule->key, part, key_length) != 0)
			continue;
		if (json_object_get(object, rule->json))
			return err_set(err, ERR_USAGE, "%s: %s is given twice", what, rule->key);
		if (rule->flag && equals)
			return err_set(err, ERR_USAGE, "%s: %s takes no value", what, rule->key);
		if (!rule->flag && (!equals || equals + 1 == part + length))
			return err_set(err, ERR_USAGE, "%s: %s needs a value", what, rule->key);
		json_t *value = rule->flag ? json_true() : json_stringn(equals + 1, length - key_length - 1);
		if (!value)
			return err_set(err, ERR_INVALID, "%s: %s is not valid UTF-8", what, rule->key);
		json_object_set_new(object, rule->json, value);
		return 0;
	}
	char names[160] = "";
	for (size_t i = 0; i < count; i++) {
		size_t used = strlen(names);
		snprintf(names + used, sizeof(names) - used, "%s%s%s", i ? ", " : "", rules[i].key,
			rules[i].flag ? "" : "=");
	}
	return err_set(err, ERR_USAGE, "%s: '%.*s' is none of %s", what, (int)(length > 64 ? 64 : length), part, names);
}

static int parse_parts(const char *what, const char *first, const struct part_rule *rules, size_t count,
	const char *text, json_t **result, struct err *err)
{
	CLEANUP_JSON json_t *object = json_object();
	size_t length = strcspn(text, ",");

	if (!length)
		return err_set(err, ERR_USAGE, "%s: begins with its %s", what, first);
	json_t *value = json_stringn(text, length);
	if (!value)
		return err_set(err, ERR_INVALID, "%s: not valid UTF-8", what);
	json_object_set_new(object, first, value);
	while (text[length]) {
		text += length + 1;
		length = strcspn(text, ",");
		if (take_part(what, rules, count, text, length, object, err) < 0)
			return -1;
	}
	*result = STEAL(object);
	return 0;
}

int units_parse_disk(const char *text, json_t **disk, struct err *err)
{
	static const struct part_rule rules[] = {
		{"format", "format", NULL, false},
		{"bus", "bus", NULL, false},
		{"kind", "kind", NULL, false},
		{"id", "id", NULL, false},
		{"readonly", "read_only", NULL, true},
	};
	json_t *parsed = NULL;

	if (parse_parts("disk", "path", rules, ARRAY_SIZE(rules), text, &parsed, err) < 0)
		return -1;
	const char *path = json_string_value(json_object_get(parsed, "path"));
	const char *dot = strrchr(path, '.');
	/* Every disk has an explicit format (a guest could write an image's header into a raw disk): by the name where
	 * nothing is said, and the daemon checks it against what is in the file. */
	if (!json_object_get(parsed, "format"))
		json_object_set_new(parsed, "format", json_string(dot && !strcmp(dot, ".qcow2") ? "qcow2" : "raw"));
	*disk = parsed;
	return 0;
}

int units_parse_network(const char *text, json_t **nic, struct err *err)
{
	static const struct part_rule rules[] = {
		{"mac", "mac", NULL, false},
		{"model", "model", NULL, false},
		{"id", "id", NULL, false},
	};

	return parse_parts("network", "bridge", rules, ARRAY_SIZE(rules), text, nic, err);
}

const char *units_bytes(char out[UNITS_BYTES], uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < ARRAY_SIZE(names)) {
		value /= 1024;
		unit++;
	}
	snprintf(out, UNITS_BYTES, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, names[unit]);
	return out;
}

const char *units_mib(char out[UNITS_BYTES], uint64_t mib)
{
	if (mib >= 1024 && mib % 1024 == 0)
		snprintf(out, UNITS_BYTES, "%llu GiB", (unsigned long long)(mib / 1024));
	else if (mib >= 10240)
		snprintf(out, UNITS_BYTES, "%.1f GiB", (double)mib / 1024);
	else
		snprintf(out, UNITS_BYTES, "%llu MiB", (unsigned long long)mib);
	return out;
}

const char *units_span_us(char out[UNITS_BYTES], uint64_t us)
{
	double ms = (double)us / 1000;

	if (ms < 10)
		snprintf(out, UNITS_BYTES, "%.1f ms", ms);
	else if (ms < 1000)
		snprintf(out, UNITS_BYTES, "%.0f ms", ms);
	else if (ms < 120000)
		snprintf(out, UNITS_BYTES, "%.2f s", ms / 1000);
	else
		snprintf(out, UNITS_BYTES, "%llu min %llu s", (unsigned long long)(us / 60000000),
			(unsigned long long)(us / 1000000 % 60));
	return out;
}

const char *units_ago(char out[UNITS_BYTES], uint64_t then_ms, uint64_t now_ms)
{
	uint64_t s = now_ms > then_ms ? (now_ms - then_ms) / 1000 : 0;

	if (!then_ms)
		snprintf(out, UNITS_BYTES, "-");
	else if (s < 120)
		snprintf(out, UNITS_BYTES, "%llu s ago", (unsigned long long)s);
	else if (s < 7200)
		snprintf(out, UNITS_BYTES, "%llu min ago", (unsigned long long)(s / 60));
	else if (s < 172800)
		snprintf(out, UNITS_BYTES, "%llu h ago", (unsigned long long)(s / 3600));
	else
		snprintf(out, UNITS_BYTES, "%llu d ago", (unsigned long long)(s / 86400));
	return out;
}

const char *units_time(char out[UNITS_BYTES], uint64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm local;

	localtime_r(&seconds, &local);
	strftime(out, UNITS_BYTES, "%Y-%m-%d %H:%M:%S", &local);
	return out;
}

uint64_t units_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
