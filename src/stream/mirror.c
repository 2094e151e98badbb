/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/mirror.h"
#include "stream/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

enum {
	CHUNK_BYTES = 4096,
	CHUNKS_PER_WORD = 64,
};

static size_t chunks_of(size_t bytes)
{
	return (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
}

static size_t words_of(size_t bytes)
{
	return (chunks_of(bytes) + CHUNKS_PER_WORD - 1) / CHUNKS_PER_WORD;
}

int mirror_init(struct mirror *mirror, int fd, const char *name, size_t capacity, struct err *err)
{
	/* Address room for all of it; memory only for what is used. */
	void *bytes = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bytes == MAP_FAILED)
		return err_errno(err, errno, "memory for %s", name);
	uint64_t *dirty = calloc(words_of(capacity), sizeof(*dirty));
	if (!dirty) {
		munmap(bytes, capacity);
		return err_errno(err, ENOMEM, "memory for %s", name);
	}
	*mirror = (struct mirror){.fd = fd, .name = name, .bytes = bytes, .capacity = capacity, .dirty = dirty};
	return 0;
}

void mirror_fini(struct mirror *mirror)
{
	if (mirror->bytes)
		munmap(mirror->bytes, mirror->capacity);
	free(mirror->dirty);
	*mirror = (struct mirror){.fd = -1};
}

static void mark(struct mirror *mirror, size_t offset, size_t size)
{
	for (size_t chunk = offset / CHUNK_BYTES; chunk <= (offset + size - 1) / CHUNK_BYTES; chunk++)
		mirror->dirty[chunk / CHUNKS_PER_WORD] |= UINT64_C(1) << (chunk % CHUNKS_PER_WORD);
}

int mirror_append(struct mirror *mirror, const void *bytes, size_t size, struct err *err)
{
	if (!size)
		return 0;
	if (size > mirror->capacity - mirror->size)
		return err_set(err, ERR_UNFIT, "%s would grow beyond %zu MiB", mirror->name, mirror->capacity >> 20);
	memcpy(mirror->bytes + mirror->size, bytes, size);
	mark(mirror, mirror->size, size);
	mirror->size += size;
	return 0;
}

void mirror_set(struct mirror *mirror, size_t offset, const void *bytes, size_t size)
{
	assert(offset <= mirror->size && size <= mirror->size - offset);
	if (!size || !memcmp(mirror->bytes + offset, bytes, size))
		return;
	memcpy(mirror->bytes + offset, bytes, size);
	mark(mirror, offset, size);
}

static bool is_dirty(const struct mirror *mirror, size_t chunk)
{
	return mirror->dirty[chunk / CHUNKS_PER_WORD] >> (chunk % CHUNKS_PER_WORD) & 1;
}

/* Skips what is clean, a word of 64 chunks at a time where it can. */
static size_t next_dirty(const struct mirror *mirror, size_t chunk, size_t end)
{
	while (chunk < end && !is_dirty(mirror, chunk))
		chunk += chunk % CHUNKS_PER_WORD == 0 && !mirror->dirty[chunk / CHUNKS_PER_WORD] ? CHUNKS_PER_WORD : 1;
	return chunk < end ? chunk : end;
}

int mirror_flush(struct mirror *mirror, struct err *err)
{
	size_t end = chunks_of(mirror->size);

	if (mirror->fd < 0)
		return 0;
	for (size_t from = next_dirty(mirror, 0, end); from < end;) {
		size_t to = from + 1;
		while (to < end && is_dirty(mirror, to))
			to++;
		size_t offset = from * CHUNK_BYTES;
		size_t stop = to * CHUNK_BYTES < mirror->size ? to * CHUNK_BYTES : mirror->size;
		if (file_write(mirror->fd, mirror->name, mirror->bytes + offset, stop - offset, offset, err))
			return -1;
		mirror->written += stop - offset;
		from = next_dirty(mirror, to, end);
	}
	memset(mirror->dirty, 0, words_of(mirror->size) * sizeof(*mirror->dirty));
	/* Only a hint: file systems without it write at fsync. */
	sync_file_range(mirror->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	return 0;
}
