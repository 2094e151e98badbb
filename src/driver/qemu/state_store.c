/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/state_store.h"
#include "stream/protocol.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

enum { ROOM_MARGIN = 64 << 20 }; /* beyond the memory itself: devices, sums, and what others write meanwhile */

/* In the order in which they are removed: without its manifest it is no state any more. */
static const char *const state_files[] = {
	STREAM_STATE_MANIFEST,
	STREAM_STATE_MANIFEST ".tmp",
	STREAM_STATE_SUMS,
	STREAM_STATE_DEVICE,
	STREAM_STATE_RAM,
};

/* The fact is not which of our files found no room, but where there is none. */
static int full(const char *state_dir, struct err *err)
{
	char was[160];

	if (err && err->code == ERR_NO_SPACE) {
		snprintf(was, sizeof(was), "%.159s", err->text);
		err_set(err, ERR_NO_SPACE, "'%s' is full (%s): make room there", state_dir, was);
	}
	return -1;
}

static int open_root(const char *state_dir, struct err *err)
{
	int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd >= 0 ? fd : err_errno(err, errno, "state directory '%s'", state_dir);
}

static int open_dir(int at, const char *name, bool create, mode_t mode, struct err *err)
{
	if (create && mkdirat(at, name, mode) < 0 && errno != EEXIST)
		return err_errno(err, errno, "making directory '%s' in the state directory", name);
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 ? fd : err_errno(err, errno, "directory '%s' in the state directory", name);
}

int state_store_open(const char *state_dir, const char *vm, uint64_t task, struct err *err)
{
	char name[24];

	snprintf(name, sizeof(name), "%" PRIu64, task);
	CLEANUP_FD int root = open_root(state_dir, err);
	CLEANUP_FD int vm_dir = root < 0 ? -1 : open_dir(root, vm, false, 0, err);
	return vm_dir < 0 ? -1 : open_dir(vm_dir, name, false, 0, err);
}

int state_store_make(const char *state_dir, const char *vm, uint64_t task, uint32_t owner, struct err *err)
{
	char name[24];

	snprintf(name, sizeof(name), "%" PRIu64, task);
	CLEANUP_FD int root = open_root(state_dir, err);
	if (root < 0)
		return -1;
	CLEANUP_FD int dir = -1;
	/* Another node's purge may take away the VM's empty directory between the two steps. */
	for (int i = 0; i < 3 && dir < 0; i++) {
		CLEANUP_FD int vm_dir = open_dir(root, vm, true, 0711, err);
		dir = vm_dir < 0 ? -1 : open_dir(vm_dir, name, true, 0700, err);
	}
	if (dir < 0)
		return full(state_dir, err);
	if (owner && fchown(dir, owner, owner) < 0)
		return err_errno(err, errno,
			"giving '%s/%s/%s' to user %u, who writes it (is this storage exported with root_squash?)", state_dir,
			vm, name, owner);
	return STEAL_FD(dir);
}

static int remove_litter(int dir, struct err *err)
{
	if (!faccessat(dir, STREAM_STATE_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW))
		return err_set(err, ERR_EXISTS, "a whole saved state of this task is there already");
	for (size_t i = 0; i < ARRAY_SIZE(state_files); i++)
		if (unlinkat(dir, state_files[i], 0) < 0 && errno != ENOENT)
			return err_errno(err, errno, "removing an unfinished '%s'", state_files[i]);
	return 0;
}

int state_store_create(const char *state_dir, const char *vm, uint64_t task, uint32_t owner, uint64_t bytes,
	struct err *err)
{
	CLEANUP_FD int dir = state_store_make(state_dir, vm, task, owner, err);
	struct statvfs room;

	if (dir < 0 || remove_litter(dir, err) < 0)
		return -1;
	if (fstatvfs(dir, &room) < 0)
		return err_errno(err, errno, "room in '%s'", state_dir);
	uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
	if (free_bytes < bytes + ROOM_MARGIN)
		return err_set(err, ERR_NO_SPACE, "'%s' has %" PRIu64 " MiB free, the guest's memory in use needs %" PRIu64
			" MiB: make room there", state_dir, free_bytes >> 20, (bytes + ROOM_MARGIN) >> 20);
	return STEAL_FD(dir);
}

/* A task's number, as we write it: nothing else is a name of ours. */
static bool task_of(const char *name, uint64_t *task)
{
	char again[24];

	if (sscanf(name, "%20" SCNu64, task) != 1)
		return false;
	snprintf(again, sizeof(again), "%" PRIu64, *task);
	return !strcmp(name, again);
}

static int remove_state(int vm_dir, const char *name, struct err *err)
{
	CLEANUP_FD int dir = open_dir(vm_dir, name, false, 0, err);

	if (dir < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(state_files); i++)
		if (unlinkat(dir, state_files[i], 0) < 0 && errno != ENOENT)
			return err_errno(err, errno, "removing '%s' of saved state %s", state_files[i], name);
	if (unlinkat(vm_dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return err_errno(err, errno, "removing the directory of saved state %s", name);
	return 0;
}

int state_store_purge(const char *state_dir, const char *vm, uint64_t keep, uint64_t below, struct err *err)
{
	const struct dirent *entry;
	uint64_t task;
	int result = 0;

	CLEANUP_FD int root = open_root(state_dir, err);
	int vm_dir = root < 0 ? -1 : openat(root, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (vm_dir < 0)
		return root >= 0 && errno == ENOENT ? 0 : root < 0 ? -1 : err_errno(err, errno, "directory '%s'", vm);
	DIR *list = fdopendir(vm_dir);
	if (!list) {
		close(vm_dir);
		return err_errno(err, errno, "directory '%s'", vm);
	}
	while ((entry = readdir(list)))
		if (task_of(entry->d_name, &task) && task != keep && task < below &&
			remove_state(dirfd(list), entry->d_name, err) < 0)
			result = -1;
	closedir(list);
	/* Of a VM that has no state any more nothing stays; in use or not ours: it stays. */
	unlinkat(root, vm, AT_REMOVEDIR);
	return result;
}
