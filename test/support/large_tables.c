/* SPDX-License-Identifier: Apache-2.0
 * Linked into a fuzzer with --wrap=calloc,--wrap=free. An engine's tables are 70 MB of which a run touches some pages, but
 * AddressSanitizer marks every byte of a block when it is allocated and again when it is freed: most of a run's time was spent
 * there. Blocks this large come from the kernel instead, zeroed where they are touched. Each ends at a page that nobody may
 * touch and begins behind one, and is unmapped when it is freed: what AddressSanitizer finds is still found, with a fault. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE_BYTES = 1 << 20, TABLES_MAX = 64, ALIGN = 16 };

static struct table {
	void *block; /* NULL: free */
	void *map;
	size_t map_bytes;
} tables[TABLES_MAX];

void *__real_calloc(size_t count, size_t size);
void __real_free(void *block);
void *__wrap_calloc(size_t count, size_t size);
void __wrap_free(void *block);

static struct table *table_of(const void *block)
{
	for (int i = 0; i < TABLES_MAX; i++)
		if (tables[i].block == block)
			return &tables[i];
	return NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes, used;

	if (__builtin_mul_overflow(count, size, &bytes) || bytes < LARGE_BYTES)
		return __real_calloc(count, size);
	used = (bytes + page - 1) / page * page;
	struct table *table = table_of(NULL);
	assert(table && "more large tables than there is room for");
	table->map_bytes = used + 2 * page;
	table->map = mmap(NULL, table->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(table->map != MAP_FAILED);
	if (mprotect((uint8_t *)table->map + page, used, PROT_READ | PROT_WRITE) < 0)
		abort();
	table->block = (uint8_t *)table->map + page + (used - bytes) / ALIGN * ALIGN;
	return table->block;
}

void __wrap_free(void *block)
{
	struct table *table = block ? table_of(block) : NULL;

	if (!table) {
		__real_free(block);
		return;
	}
	munmap(table->map, table->map_bytes);
	table->block = NULL;
}
