/* SPDX-License-Identifier: Apache-2.0
 * Whether the files of a definition are there. A stat on a hung NFS mount never returns, so it is done in a process of
 * its own (base/worker.h), a few at a time, that nobody waits for: the caller has its own time limit. */
#include "api/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

enum { CHECKS_MAX = 8 };

/* What goes to the process and comes back. */
struct look {
	struct vm_def def;
	struct err err;
};

struct disk_check {
	struct api *api;
	disk_check_fn *done; /* NULL: the call is gone */
	void *ctx;
	struct disk_check *next; /* api->disk_checks */
	int fd;
	struct loop_io *io;
	struct look look;
};

_Static_assert(sizeof(struct look) <= WORKER_BYTES_MAX, "a look is sent in one message");

static int file_check(
	const char *what, const char *path, bool readable_only, const struct vm_disk *disk, struct err *err)
{
	char magic[4] = "";
	struct stat st;

	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_errno(err, errno, "%s: %s", what, path);
	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "%s: %s", what, path);
	if (S_ISDIR(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: %s is a directory: give the image file", what, path);
	if (!S_ISREG(st.st_mode) && (readable_only || !S_ISBLK(st.st_mode)))
		return err_set(err, ERR_INVALID, "%s: %s is neither a file nor a block device", what, path);
	if (!disk)
		return 0;
	bool qcow2 = pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", sizeof(magic));
	if (qcow2 != (disk->format == DISK_QCOW2))
		return err_set(err, ERR_INVALID, "%s: %s is %s, the definition says format %s", what, path,
			qcow2 ? "a qcow2 image" : "no qcow2 image", disk_format_name((int)disk->format));
	return 0;
}

int disk_check_run(const struct vm_def *def, struct err *err)
{
	char what[64];

	for (uint32_t i = 0; i < def->disk_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		/* A lun is mounted on one node at a time, a net disk is opened by QEMU: neither need be here now. */
		if (disk->kind != DISK_SHARED)
			continue;
		snprintf(what, sizeof(what), "disk %s", disk->id);
		if (file_check(what, disk->path, false, disk, err) < 0)
			return -1;
	}
	if (def->kernel[0] && file_check("kernel", def->kernel, true, NULL, err) < 0)
		return -1;
	if (def->initrd[0] && file_check("initrd", def->initrd, true, NULL, err) < 0)
		return -1;
	return 0;
}

static void check_end(struct disk_check *check)
{
	struct disk_check **at = &check->api->disk_checks;

	while (*at != check)
		at = &(*at)->next;
	*at = check->next;
	loop_io_cancel(check->api->loop, check->io);
	close(check->fd);
	free(check);
}

static void on_answer(void *ctx, uint32_t events)
{
	struct disk_check *check = ctx;
	struct err err;

	(void)events;
	if (worker_take(check->fd, &check->look, 0, sizeof(check->look), NULL, 0, &err) < 0)
		check->look.err = err;
	if (check->done)
		check->done(check->ctx, &check->look.err);
	check_end(check);
}

/* In the process. */
static void look(void *data)
{
	struct look *look = data;

	disk_check_run(&look->def, &look->err);
}

struct disk_check *disk_check_start(
	struct api *api, const struct vm_def *def, disk_check_fn *done, void *ctx, struct err *err)
{
	uint32_t under_way = 0;

	for (const struct disk_check *check = api->disk_checks; check; check = check->next)
		under_way++;
	if (under_way >= CHECKS_MAX) {
		err_set(err, ERR_BUSY, "%u looks at storage are under way and do not end", under_way);
		return NULL;
	}
	struct disk_check *check = calloc(1, sizeof(*check));
	if (!check) {
		err_set(err, ERR_SYSTEM, "out of memory");
		return NULL;
	}
	*check = (struct disk_check){.api = api, .done = done, .ctx = ctx, .look.def = *def};
	check->fd = worker_begin(api->worker, look, &check->look, sizeof(check->look), NULL, 0, err);
	if (check->fd < 0) {
		free(check);
		return NULL;
	}
	check->io = loop_io_watch(api->loop, check->fd, EPOLLIN, on_answer, check);
	check->next = api->disk_checks;
	api->disk_checks = check;
	return check;
}

void disk_check_forget(struct disk_check *check)
{
	if (check)
		check->done = NULL;
}

void disk_checks_end(struct api *api)
{
	while (api->disk_checks)
		check_end(api->disk_checks);
}
