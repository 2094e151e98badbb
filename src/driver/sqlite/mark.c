/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/sqlite/mark.h"

#include "base/hash.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Within one sector, which disks write whole or not at all. Little-endian. */
struct block {
	char magic[8];
	uint64_t index;
	uint64_t hash;
	uint64_t pledge;
	uint64_t sum; /* of what is before it */
};

static const char magic[8] = "wt-mrk2";

static uint64_t block_sum(const struct block *block)
{
	return htole64(hash64(block, offsetof(struct block, sum), 0));
}

int mark_write(int fd, const struct mark *mark, struct err *err)
{
	struct block block = {
		.index = htole64(mark->index), .hash = htole64(mark->hash), .pledge = htole64(mark->pledge)};

	memcpy(block.magic, magic, sizeof(magic));
	block.sum = block_sum(&block);
	ssize_t put = pwrite(fd, &block, sizeof(block), 0);
	if (put < 0)
		return err_errno(err, errno, "writing the store's mark");
	if (put != sizeof(block))
		return err_set(err, ERR_IO, "writing the store's mark: %zd of %zu bytes", put, sizeof(block));
	return 0;
}

int mark_clear(int fd, struct err *err)
{
	if (mark_write(fd, &(struct mark){0}, err) < 0)
		return -1;
	if (fdatasync(fd) < 0)
		return err_errno(err, errno, "fdatasync of the store's mark");
	return 0;
}

int mark_open(const char *path, int *fd, struct mark *mark, struct err *err)
{
	struct block block;
	CLEANUP_FD int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (file < 0)
		return err_errno(err, errno, "%s", path);
	ssize_t got = pread(file, &block, sizeof(block), 0);
	if (got < 0)
		return err_errno(err, errno, "%s", path);
	*mark = (struct mark){0};
	if (!got) {
		/* New, or its first write never came to the disk. */
		if (mark_clear(file, err) < 0)
			return -1;
	} else if (got != sizeof(block) || memcmp(block.magic, magic, sizeof(magic)) != 0 ||
		   block.sum != block_sum(&block)) {
		return err_set(err, ERR_CORRUPT, "%s: its checksum does not hold", path);
	} else {
		*mark = (struct mark){
			.index = le64toh(block.index), .hash = le64toh(block.hash), .pledge = le64toh(block.pledge)};
	}
	*fd = STEAL_FD(file);
	return 0;
}
