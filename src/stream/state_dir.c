/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/state_dir.h"
#include "stream/file.h"
#include "stream/protocol.h"
#include "stream/sums.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MANIFEST_NEW STREAM_STATE_MANIFEST ".tmp"

static int create(int dir, const char *name, uint64_t size, int *fd, struct err *err)
{
	*fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*fd < 0)
		return err_errno(err, errno, "new file '%s' in the state directory", name);
	if (ftruncate(*fd, (off_t)size))
		return err_errno(err, errno, "file '%s' of %" PRIu64 " bytes", name, size);
	return 0;
}

/* Reserved room cannot be taken by others, so that a full disk is found here, while the guest runs and nothing has been
 * copied; and the file system lays out one long file instead of many late pieces. */
static int reserve(int ram, uint64_t ram_bytes, uint64_t used_bytes, struct err *err)
{
	struct statvfs fs;
	uint64_t free_bytes = 0;
	bool known = !fstatvfs(ram, &fs);

	if (known)
		free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (!fallocate(ram, FALLOC_FL_KEEP_SIZE, 0, (off_t)ram_bytes))
		return 0;
	if (errno == ENOSPC || errno == EDQUOT)
		return err_set(err, ERR_NO_SPACE,
			"the state storage has %" PRIu64 " MiB free%s, the guest's memory needs up to %" PRIu64 " MiB",
			free_bytes >> 20, errno == EDQUOT ? " but a quota" : "", ram_bytes >> 20);
	if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
		return err_errno(err, errno, "room for the guest's memory");
	if (known && free_bytes < used_bytes)
		return err_set(err, ERR_NO_SPACE,
			"the state storage has %" PRIu64 " MiB free, the guest's memory in use is %" PRIu64 " MiB",
			free_bytes >> 20, used_bytes >> 20);
	return 0;
}

int state_create(int dir, uint64_t ram_bytes, uint64_t used_bytes, struct state_files *files, struct err *err)
{
	*files = STATE_FILES_NONE;
	/* Files of another save are not ours to remove: fail before the first is made. */
	if (!faccessat(dir, STREAM_STATE_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW))
		return err_set(err, ERR_EXISTS, "the state directory holds a saved state already");
	if (create(dir, STREAM_STATE_RAM, ram_bytes, &files->ram, err))
		return -1;
	if (reserve(files->ram, ram_bytes, used_bytes, err) ||
		create(dir, STREAM_STATE_DEVICE, 0, &files->device, err) ||
		create(dir, STREAM_STATE_SUMS, sums_bytes(ram_bytes >> PAGE_BITS), &files->sums, err)) {
		state_close(files);
		state_remove(dir);
		return -1;
	}
	return 0;
}

void state_close(struct state_files *files)
{
	cleanup_fd_(&files->ram);
	cleanup_fd_(&files->device);
	cleanup_fd_(&files->sums);
	*files = STATE_FILES_NONE;
}

void state_remove(int dir)
{
	unlinkat(dir, MANIFEST_NEW, 0);
	unlinkat(dir, STREAM_STATE_SUMS, 0);
	unlinkat(dir, STREAM_STATE_DEVICE, 0);
	unlinkat(dir, STREAM_STATE_RAM, 0);
}

int state_write_manifest(int dir, const struct manifest *manifest, json_t *facts, struct err *err)
{
	size_t size;
	CLEANUP_FREE char *text = manifest_encode(manifest, facts, &size, err);
	CLEANUP_FD int fd = -1;

	if (!text || create(dir, MANIFEST_NEW, 0, &fd, err) || file_write(fd, MANIFEST_NEW, text, size, 0, err))
		return -1;
	if (fsync(fd))
		return err_errno(err, errno, "sync of the manifest");
	if (renameat(dir, MANIFEST_NEW, dir, STREAM_STATE_MANIFEST))
		return err_errno(err, errno, "naming of the manifest");
	if (fsync(dir)) {
		err_errno(err, errno, "sync of the state directory");
		unlinkat(dir, STREAM_STATE_MANIFEST, 0);
		return -1;
	}
	return 0;
}

/* O_NONBLOCK: a fifo in the file's place must not hang us; it has no effect on the regular file that it must be. */
static int open_sized(int dir, const char *name, uint64_t size, int *fd, struct err *err)
{
	struct stat stat;

	*fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0 && errno == ELOOP)
		return err_set(err, ERR_CORRUPT, "'%s' of the saved state is a link, not a file", name);
	if (*fd < 0 && errno == EACCES)
		return err_set(err, ERR_DENIED, "file '%s' of the saved state: it must belong to user %u, who reads it", name,
			geteuid());
	if (*fd < 0)
		return err_errno(err, errno, "file '%s' of the saved state", name);
	if (fstat(*fd, &stat))
		return err_errno(err, errno, "file '%s' of the saved state", name);
	if (!S_ISREG(stat.st_mode))
		return err_set(err, ERR_CORRUPT, "'%s' of the saved state is not a file", name);
	if (size != UINT64_MAX && (uint64_t)stat.st_size != size)
		return err_set(err, ERR_CORRUPT, "'%s' has %lld bytes, the manifest says %" PRIu64, name,
			(long long)stat.st_size, size);
	return 0;
}

static int read_manifest(int dir, struct manifest *manifest, json_t **facts, struct err *err)
{
	CLEANUP_FD int fd = -1;
	CLEANUP_FREE char *text = NULL;
	struct stat stat;

	if (open_sized(dir, STREAM_STATE_MANIFEST, UINT64_MAX, &fd, err))
		return -1;
	if (fstat(fd, &stat))
		return err_errno(err, errno, "manifest");
	if (stat.st_size <= 0 || stat.st_size > MANIFEST_BYTES_MAX)
		return err_set(err, ERR_CORRUPT, "manifest has %lld bytes, at most %d are possible",
			(long long)stat.st_size, MANIFEST_BYTES_MAX);
	text = malloc((size_t)stat.st_size);
	if (!text)
		return err_errno(err, ENOMEM, "manifest");
	if (file_read(fd, STREAM_STATE_MANIFEST, text, (size_t)stat.st_size, 0, err))
		return -1;
	return manifest_decode(text, (size_t)stat.st_size, manifest, facts, err);
}

int state_open(int dir, struct state_files *files, struct manifest *manifest, json_t **facts, struct err *err)
{
	struct manifest found;
	CLEANUP_JSON json_t *facts_found = NULL;
	struct state_files opened = STATE_FILES_NONE;

	if (read_manifest(dir, &found, &facts_found, err))
		return -1;
	if (open_sized(dir, STREAM_STATE_RAM, found.ram_bytes, &opened.ram, err) ||
		open_sized(dir, STREAM_STATE_DEVICE, found.device_bytes, &opened.device, err) ||
		open_sized(dir, STREAM_STATE_SUMS, sums_bytes(found.ram_bytes >> PAGE_BITS), &opened.sums, err)) {
		state_close(&opened);
		return -1;
	}
	*files = opened;
	*manifest = found;
	*facts = STEAL(facts_found);
	return 0;
}

uint64_t state_trim(const struct state_files *files, const uint8_t *sums, uint64_t pages)
{
	enum { RUN_PAGES_MIN = 16 }; /* shorter ones only tear the file to pieces */
	struct stat before, after;
	uint64_t from = 0;

	if (fstat(files->ram, &before))
		return 0;
	while (from < pages) {
		uint64_t to = from;
		while (to < pages && !sums_get(sums, to))
			to++;
		if (to - from >= RUN_PAGES_MIN)
			fallocate(files->ram, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, (off_t)(from * PAGE_BYTES),
				(off_t)((to - from) * PAGE_BYTES));
		from = to + 1;
	}
	if (fstat(files->ram, &after) || after.st_blocks > before.st_blocks)
		return 0;
	return (uint64_t)(before.st_blocks - after.st_blocks) * 512;
}
