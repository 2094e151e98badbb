/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/record.h"
#include "base/json.h"
#include "model/names.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define RECORD_FILE "instance.json"
#define RECORD_FILE_NEW "instance.json.new"
enum { RECORD_BYTES_MAX = 64 << 10 };

NAMES_FUNCTION(record_step_name, RECORD_STEPS)

static const struct field record_fields[] = {
	SCHEMA_ENUM(1, record, step, record_step_name, RECORD_STEP_COUNT),
	SCHEMA_U64(2, record, epoch),
	SCHEMA_U64(3, record, task),
	SCHEMA_U64(4, record, state_task),
	SCHEMA_U64(5, record, state_epoch),
	SCHEMA_ENUM(6, record, cause, gone_cause_name, GONE_CAUSE_COUNT),
	SCHEMA_BOOL(7, record, kvm),
	SCHEMA_BOOL(8, record, postcopy),
	SCHEMA_BOOL(9, record, filling),
	SCHEMA_BOOL(10, record, shutdown_asked),
	SCHEMA_BOOL(11, record, stopped_by_copy),
	SCHEMA_BOOL(12, record, sealed),
	SCHEMA_U32(13, record, uid),
	SCHEMA_U64(14, record, pid),
	SCHEMA_U64(15, record, starttime),
	SCHEMA_U64(16, record, pipe_inode),
	SCHEMA_RECORD(17, record, figures, &move_figures_schema),
	SCHEMA_RECORD(18, record, def, &vm_def_schema),
	SCHEMA_BOOL(19, record, agent_heard),
};
SCHEMA_DEFINE(record_schema, record, record_fields);

static int write_all(int fd, const char *text, size_t size, struct err *err)
{
	while (size) {
		ssize_t n = write(fd, text, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "writing " RECORD_FILE);
		text += n;
		size -= (size_t)n;
	}
	return 0;
}

int record_write(int dir_fd, const struct record *record, struct err *err)
{
	CLEANUP_JSON json_t *json = json_from_record(&record_schema, record, JSON_SKIP_ZERO);
	CLEANUP_FREE char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;

	if (!text)
		return err_set(err, ERR_SYSTEM, "out of memory");
	CLEANUP_FD int fd = openat(dir_fd, RECORD_FILE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, errno, "making " RECORD_FILE);
	if (write_all(fd, text, strlen(text), err) < 0)
		return -1;
	if (renameat(dir_fd, RECORD_FILE_NEW, dir_fd, RECORD_FILE) < 0)
		return err_errno(err, errno, "renaming " RECORD_FILE);
	return 0;
}

int record_read(int dir_fd, struct record *record, struct err *err)
{
	CLEANUP_FREE char *text = malloc(RECORD_BYTES_MAX);
	size_t size = 0;
	ssize_t n;

	CLEANUP_FD int fd = openat(dir_fd, RECORD_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_errno(err, errno, RECORD_FILE);
	if (!text)
		return err_set(err, ERR_SYSTEM, "out of memory");
	while (size < RECORD_BYTES_MAX && (n = read(fd, text + size, RECORD_BYTES_MAX - size)) > 0)
		size += (size_t)n;
	CLEANUP_JSON json_t *json = json_parse(text, size, err);
	if (!json || json_to_record(&record_schema, json, JSON_IGNORE_NEW, record, err) < 0)
		return err_prefix(err, RECORD_FILE);
	return vm_def_check(&record->def, err) < 0 ? err_prefix(err, RECORD_FILE) : 0;
}
