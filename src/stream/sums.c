/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/sums.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

int sums_init(struct sums *sums, int fd, uint64_t pages, struct err *err)
{
	memset(sums, 0, sizeof(*sums));
	if (mirror_init(&sums->mirror, fd, "sums", sums_bytes(pages), err))
		return -1;
	/* Zero already, in memory and, once its size is set, on disk. */
	sums->mirror.size = sums_bytes(pages);
	sums->pages = pages;
	return 0;
}

void sums_fini(struct sums *sums)
{
	mirror_fini(&sums->mirror);
}

void sums_set(struct sums *sums, uint64_t index, uint64_t sum)
{
	uint64_t le = htole64(sum);

	assert(index < sums->pages);
	mirror_set(&sums->mirror, index * 8, &le, sizeof(le));
}

void sums_set_pass(struct sums *sums, uint64_t index, uint64_t pass)
{
	uint16_t le = htole16((uint16_t)(pass < SUMS_PASS_MAX ? pass : SUMS_PASS_MAX));

	assert(index < sums->pages);
	mirror_set(&sums->mirror, sums->pages * 8 + index * 2, &le, sizeof(le));
}

uint64_t sums_get(const uint8_t *bytes, uint64_t index)
{
	uint64_t le;

	memcpy(&le, bytes + index * 8, sizeof(le));
	return le64toh(le);
}

uint32_t sums_get_pass(const uint8_t *bytes, uint64_t pages, uint64_t index)
{
	uint16_t le;

	memcpy(&le, bytes + pages * 8 + index * 2, sizeof(le));
	return le16toh(le);
}
