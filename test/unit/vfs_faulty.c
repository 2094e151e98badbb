/* SPDX-License-Identifier: Apache-2.0 */
#include "vfs_faulty.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRACKED_MAX = 8, SECTOR = 512, IMAGE_MAX = 16 << 20 };

struct pending {
	struct pending *next;
	bool truncate;
	size_t offset; /* or the new size */
	size_t size;
	unsigned char bytes[];
};

/* What a disk has of one file. */
struct tracked {
	char path[300];
	bool deleted;
	unsigned char *image;
	size_t size;
	struct pending *first;
	struct pending **end;
};

struct faulty_file {
	sqlite3_file base;
	sqlite3_file *real; /* behind this struct */
	struct tracked *tracked;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum faulty_mode mode;
static unsigned fail_at, count;
static bool hit;
static struct tracked files[TRACKED_MAX];
static sqlite3_vfs *os;
static sqlite3_vfs vfs;

static void apply(struct tracked *file, const struct pending *change, size_t from, size_t size)
{
	if (change->truncate) {
		if (change->offset < file->size)
			file->size = change->offset;
		return;
	}
	size_t end = change->offset + from + size;
	assert(end <= IMAGE_MAX);
	if (end > file->size) {
		memset(file->image + file->size, 0, end - file->size);
		file->size = end;
	}
	memcpy(file->image + change->offset + from, change->bytes + from, size);
}

static void clear(struct tracked *file, bool keep)
{
	while (file->first) {
		struct pending *change = file->first;
		if (keep)
			apply(file, change, 0, change->size);
		file->first = change->next;
		free(change);
	}
	file->end = &file->first;
}

static void record(struct tracked *file, bool truncate, size_t offset, const void *bytes, size_t size)
{
	struct pending *change = malloc(sizeof(*change) + size);
	assert(change);
	*change = (struct pending){.truncate = truncate, .offset = offset, .size = size};
	if (size)
		memcpy(change->bytes, bytes, size);
	*file->end = change;
	file->end = &change->next;
}

/* What is in the file when it is opened for the first time counts as synced. */
static struct tracked *track(const char *path)
{
	struct tracked *file = NULL;
	for (int i = 0; i < TRACKED_MAX && !file; i++)
		if (!files[i].path[0] || !strcmp(files[i].path, path))
			file = &files[i];
	assert(file);
	if (!file->path[0] || file->deleted) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		snprintf(file->path, sizeof(file->path), "%s", path);
		file->deleted = false;
		if (!file->image)
			file->image = malloc(IMAGE_MAX);
		file->end = &file->first;
		clear(file, false);
		ssize_t got = fd >= 0 ? read(fd, file->image, IMAGE_MAX) : 0;
		file->size = got > 0 ? (size_t)got : 0;
		if (fd >= 0)
			close(fd);
	}
	return file;
}

/* Under the lock. */
static int judge(int code, bool needs_room)
{
	count++;
	bool now = mode != FAULTY_NONE && (mode == FAULTY_ONCE ? count == fail_at : count >= fail_at);
	if (mode == FAULTY_FULL) {
		if (!now || !needs_room)
			return SQLITE_OK;
		code = SQLITE_FULL;
	}
	hit |= now;
	return now ? code : SQLITE_OK;
}

static sqlite3_file *real(sqlite3_file *file)
{
	return ((struct faulty_file *)file)->real;
}

static int x_close(sqlite3_file *file)
{
	return real(file)->pMethods->xClose(real(file));
}

static int x_read(sqlite3_file *file, void *bytes, int size, sqlite3_int64 offset)
{
	return real(file)->pMethods->xRead(real(file), bytes, size, offset);
}

static int x_write(sqlite3_file *file, const void *bytes, int size, sqlite3_int64 offset)
{
	pthread_mutex_lock(&lock);
	int rc = judge(SQLITE_IOERR_WRITE, true);
	if (!rc) {
		record(((struct faulty_file *)file)->tracked, false, (size_t)offset, bytes, (size_t)size);
		rc = real(file)->pMethods->xWrite(real(file), bytes, size, offset);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

static int x_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	pthread_mutex_lock(&lock);
	int rc = judge(SQLITE_IOERR_TRUNCATE, false);
	if (!rc) {
		record(((struct faulty_file *)file)->tracked, true, (size_t)size, NULL, 0);
		rc = real(file)->pMethods->xTruncate(real(file), size);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

static int x_sync(sqlite3_file *file, int flags)
{
	(void)flags;
	pthread_mutex_lock(&lock);
	int rc = judge(SQLITE_IOERR_FSYNC, false);
	if (!rc)
		clear(((struct faulty_file *)file)->tracked, true);
	pthread_mutex_unlock(&lock);
	return rc; /* the real sync would only take time */
}

static int x_size(sqlite3_file *file, sqlite3_int64 *size)
{
	return real(file)->pMethods->xFileSize(real(file), size);
}
static int x_lock(sqlite3_file *file, int level)
{
	return real(file)->pMethods->xLock(real(file), level);
}
static int x_unlock(sqlite3_file *file, int level)
{
	return real(file)->pMethods->xUnlock(real(file), level);
}
static int x_reserved(sqlite3_file *file, int *out)
{
	return real(file)->pMethods->xCheckReservedLock(real(file), out);
}
static int x_control(sqlite3_file *file, int op, void *arg)
{
	return real(file)->pMethods->xFileControl(real(file), op, arg);
}
static int x_sector(sqlite3_file *file)
{
	return real(file)->pMethods->xSectorSize(real(file));
}
static int x_characteristics(sqlite3_file *file)
{
	return real(file)->pMethods->xDeviceCharacteristics(real(file));
}
static int x_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **at)
{
	return real(file)->pMethods->xShmMap(real(file), page, size, extend, at);
}
static int x_shm_lock(sqlite3_file *file, int offset, int n, int flags)
{
	return real(file)->pMethods->xShmLock(real(file), offset, n, flags);
}
static void x_shm_barrier(sqlite3_file *file)
{
	real(file)->pMethods->xShmBarrier(real(file));
}
static int x_shm_unmap(sqlite3_file *file, int delete)
{
	return real(file)->pMethods->xShmUnmap(real(file), delete);
}

static const sqlite3_io_methods methods = {2, x_close, x_read, x_write, x_truncate, x_sync, x_size, x_lock, x_unlock,
	x_reserved, x_control, x_sector, x_characteristics, x_shm_map, x_shm_lock, x_shm_barrier, x_shm_unmap, NULL,
	NULL};

static int x_open(sqlite3_vfs *self, const char *path, sqlite3_file *base, int flags, int *out)
{
	struct faulty_file *file = (struct faulty_file *)base;

	(void)self;
	*file = (struct faulty_file){.real = (sqlite3_file *)(file + 1)};
	pthread_mutex_lock(&lock);
	file->tracked = track(path);
	pthread_mutex_unlock(&lock);
	int rc = os->xOpen(os, path, file->real, flags, out);
	if (file->real->pMethods)
		file->base.pMethods = &methods;
	return rc;
}

static int x_delete(sqlite3_vfs *self, const char *path, int sync_dir)
{
	(void)self;
	pthread_mutex_lock(&lock);
	int rc = judge(SQLITE_IOERR_DELETE, false);
	if (!rc) {
		track(path)->deleted = true;
		rc = os->xDelete(os, path, sync_dir);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

void faulty_register(void)
{
	if (os)
		return;
	os = sqlite3_vfs_find(NULL);
	vfs = *os;
	vfs.zName = "faulty";
	vfs.szOsFile = (int)sizeof(struct faulty_file) + os->szOsFile;
	vfs.xOpen = x_open;
	vfs.xDelete = x_delete;
	sqlite3_vfs_register(&vfs, 0);
}

void faulty_arm(enum faulty_mode new_mode, unsigned nth)
{
	pthread_mutex_lock(&lock);
	mode = new_mode;
	fail_at = nth;
	count = 0;
	hit = false;
	for (int i = 0; i < TRACKED_MAX; i++) {
		clear(&files[i], false);
		files[i].path[0] = 0;
	}
	pthread_mutex_unlock(&lock);
}

unsigned faulty_count(void)
{
	pthread_mutex_lock(&lock);
	unsigned n = count;
	pthread_mutex_unlock(&lock);
	return n;
}

bool faulty_hit(void)
{
	pthread_mutex_lock(&lock);
	bool was = hit;
	pthread_mutex_unlock(&lock);
	return was;
}

void faulty_power_loss(unsigned seed)
{
	char shm[sizeof(files[0].path) + 8];

	for (int i = 0; i < TRACKED_MAX; i++) {
		struct tracked *file = &files[i];
		if (!file->path[0] || file->deleted)
			continue;
		for (struct pending *change = file->first; change; change = change->next)
			for (size_t at = 0; at == 0 || at < change->size; at += SECTOR) {
				size_t size = change->size - at < SECTOR ? change->size - at : SECTOR;
				if (rand_r(&seed) % 3)
					apply(file, change, at, size);
			}
		clear(file, false);
		int fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		assert(fd >= 0 && write(fd, file->image, file->size) == (ssize_t)file->size);
		close(fd);
		snprintf(shm, sizeof(shm), "%.299s-shm", file->path);
		unlink(shm);
	}
}
