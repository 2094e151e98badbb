/* SPDX-License-Identifier: Apache-2.0
 * Whether the files of a definition are there. A stat on a hung NFS mount never returns, so it is done on a thread of
 * its own, a few at a time, that nobody waits for: the caller has its own time limit. */
#include "api/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

enum { CHECKS_MAX = 8 };

struct disk_check {
	struct api *api; /* NULL: it is gone, tell nobody */
	struct loop *loop;
	pthread_mutex_t lock; /* guards api and loop against the thread's last act */
	disk_check_fn *done;  /* NULL: the call is gone */
	void *ctx;
	struct disk_check *next; /* api->disk_checks */
	struct vm_def def;
	struct err err;
};

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

static void check_free(struct disk_check *check)
{
	pthread_mutex_destroy(&check->lock);
	free(check);
}

/* On the loop's thread. */
static void check_finished(void *ctx, void *item)
{
	struct disk_check *check = item;

	(void)ctx;
	pthread_mutex_lock(&check->lock); /* the thread is out of its last act */
	pthread_mutex_unlock(&check->lock);
	if (check->api) {
		struct disk_check **at = &check->api->disk_checks;
		while (*at != check)
			at = &(*at)->next;
		*at = check->next;
		if (check->done)
			check->done(check->ctx, &check->err);
	}
	check_free(check);
}

static void *check_thread(void *arg)
{
	struct disk_check *check = arg;
	struct err err = {0};

	disk_check_run(&check->def, &err);
	pthread_mutex_lock(&check->lock);
	check->err = err;
	bool posted = check->api && !loop_post(check->loop, check_finished, NULL, check, &err);
	bool orphan = !check->api;
	pthread_mutex_unlock(&check->lock);
	/* A post that fails leaves the call to its time limit; the check then stays on the list as under way. */
	if (orphan && !posted)
		check_free(check);
	return NULL;
}

static int thread_start(struct disk_check *check, struct err *err)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, before;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 << 10);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, &attr, check_thread, check);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return failed ? err_errno(err, failed, "start a thread") : 0;
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
	*check = (struct disk_check){.api = api, .loop = api->loop, .done = done, .ctx = ctx, .def = *def};
	pthread_mutex_init(&check->lock, NULL);
	if (thread_start(check, err) < 0) {
		check_free(check);
		return NULL;
	}
	check->next = api->disk_checks;
	api->disk_checks = check;
	return check;
}

void disk_check_forget(struct disk_check *check)
{
	if (check)
		check->done = NULL;
}

void disk_checks_orphan(struct api *api)
{
	while (api->disk_checks) {
		struct disk_check *check = api->disk_checks;
		api->disk_checks = check->next;
		pthread_mutex_lock(&check->lock);
		check->api = NULL;
		pthread_mutex_unlock(&check->lock);
	}
}
