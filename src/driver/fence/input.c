/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/fence/input.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static bool ours(const struct stat *st)
{
	return st->st_uid == 0 || st->st_uid == geteuid();
}

static int open_secret(const char *path, const char *dir, struct err *err)
{
	size_t length = strlen(dir);
	struct stat st;

	if (strncmp(path, dir, length) != 0 || path[length] != '/' || strchr(path + length + 1, '/'))
		return err_set(err, ERR_DENIED, "secret '%s': only files in %s are read", path, dir);
	CLEANUP_FD int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0 || fstat(dir_fd, &st) < 0)
		return err_errno(err, errno, "directory of secrets '%s'", dir);
	if (!ours(&st) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(err, ERR_DENIED, "directory of secrets '%s': others than root can write to it", dir);
	CLEANUP_FD int fd =
		openat(dir_fd, path + length + 1, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, errno, "secret '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_DENIED, "secret '%s': not a file", path);
	if (!ours(&st) || (st.st_mode & (S_IRWXG | S_IRWXO)))
		return err_set(err, ERR_DENIED,
			"secret '%s': must belong to root and be closed to all others (mode 0600)", path);
	return STEAL_FD(fd);
}

static int read_secret(const char *path, const char *dir, char secret[static FENCE_SECRET_BYTES], struct err *err)
{
	char text[FENCE_SECRET_BYTES + 1];
	size_t used = 0;
	ssize_t got = 1;

	CLEANUP_FD int fd = open_secret(path, dir, err);
	if (fd < 0)
		return -1;
	for (; got > 0 && used < sizeof(text); used += (size_t)got)
		if ((got = read(fd, text + used, sizeof(text) - used)) < 0)
			return err_errno(err, errno, "secret '%s'", path);
	const char *end = memchr(text, '\n', used);
	size_t length = end ? (size_t)(end - text) : used;
	int result = 0;
	if (!length || length >= FENCE_SECRET_BYTES)
		result = err_set(err, ERR_INVALID, "secret '%s': its first line must have 1 to %d bytes", path,
			FENCE_SECRET_BYTES - 1);
	else if (memchr(text, 0, length) || !schema_text_ok(text, length))
		result = err_set(err, ERR_INVALID, "secret '%s': control characters or invalid UTF-8", path);
	else
		memcpy(secret, text, length);
	explicit_bzero(text, sizeof(text));
	return result;
}

static void put(struct fence_input *input, const char *key, const char *value)
{
	size_t key_length = strlen(key), value_length = strlen(value);
	char *at = input->lines + input->size;

	assert(key_length + value_length + 2 <= sizeof(input->lines) - input->size); /* by FENCE_INPUT_BYTES */
	at = mempcpy(at, key, key_length);
	*at++ = '=';
	at = mempcpy(at, value, value_length);
	*at++ = '\n';
	input->size = (size_t)(at - input->lines);
}

int fence_input_fill(struct fence_input *input, const struct fence_device *device, const char *node_name,
	const char *secrets_dir, struct err *err)
{
	*input = (struct fence_input){0};
	put(input, "nodename", node_name);
	for (uint32_t i = 0; i < device->option_count; i++) {
		const struct fence_option *option = &device->options[i];
		if (!option->secret) {
			put(input, option->name, option->value);
			continue;
		}
		char *secret = input->secrets[input->secret_count++];
		if (read_secret(option->value, secrets_dir, secret, err) < 0) {
			fence_input_clear(input);
			return -1;
		}
		put(input, option->name, secret);
	}
	return 0;
}

void fence_input_clear(struct fence_input *input)
{
	explicit_bzero(input, sizeof(*input));
}

static int write_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t n = write(fd, bytes, size);
		if (n < 0)
			return -1;
		bytes += n;
		size -= (size_t)n;
	}
	return 0;
}

int fence_input_open(const struct fence_input *input, const char *action, struct err *err)
{
	char first[64], path[64];
	int n = snprintf(first, sizeof(first), "action=%s\n", action);

	assert(n > 0 && (size_t)n < sizeof(first));
	/* Memory instead of a pipe: nothing to feed, and an agent that does not read blocks nobody. */
	CLEANUP_FD int fd = memfd_create("fence-options", MFD_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0600) < 0 || write_all(fd, first, (size_t)n) < 0 ||
		write_all(fd, input->lines, input->size) < 0)
		return err_errno(err, errno, "memory for the agent's options");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reading = open(path, O_RDONLY | O_CLOEXEC); /* from its beginning */
	return reading < 0 ? err_errno(err, errno, "memory for the agent's options") : reading;
}

static size_t secret_at(const struct fence_input *input, const char *bytes, size_t left)
{
	size_t longest = 0;

	for (uint32_t i = 0; i < input->secret_count; i++) {
		size_t length = strlen(input->secrets[i]);
		if (length > longest && length <= left && !memcmp(input->secrets[i], bytes, length))
			longest = length;
	}
	return longest;
}

void fence_input_redact(const struct fence_input *input, const char *bytes, size_t size, char *to, size_t capacity)
{
	size_t used = 0;

	assert(capacity > 0);
	for (size_t i = 0; i < size && used + 1 < capacity;) {
		size_t secret = secret_at(input, bytes + i, size - i);
		if (secret) {
			for (int star = 0; star < 3 && used + 1 < capacity; star++)
				to[used++] = '*';
			i += secret;
			continue;
		}
		char c = bytes[i++];
		to[used++] = c == '\t' ? ' ' : c >= 0x20 && c < 0x7f ? c : '?';
	}
	to[used] = 0;
}
