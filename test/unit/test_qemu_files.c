/* SPDX-License-Identifier: Apache-2.0
 * Files of the QEMU driver: image headers, records, saved states' directories. */
#include "qemu_make.h"

#include "driver/qemu/hot_list.h"
#include "driver/qemu/media.h"
#include "driver/qemu/record.h"
#include "driver/qemu/state_store.h"

#include <sys/stat.h>

static void header(uint8_t bytes[static 104], uint32_t version, uint64_t backing, uint64_t features)
{
	memset(bytes, 0, 104);
	memcpy(bytes, "QFI\xfb", 4);
	bytes[7] = (uint8_t)version;
	bytes[15] = (uint8_t)backing;
	bytes[79] = (uint8_t)features;
}

/* An image must not name another file for QEMU to open. */
static void images_that_rest_on_others_are_refused(void **state)
{
	uint8_t bytes[104];
	struct err err;

	(void)state;
	header(bytes, 3, 0, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), 0);
	header(bytes, 2, 0, 4);
	assert_int_equal(media_check_qcow2(bytes, 72, &err), 0); /* version 2 has no features there */
	header(bytes, 3, 200, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	assert_int_equal(err.code, ERR_UNFIT);
	header(bytes, 3, 0, 4);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	header(bytes, 4, 0, 0);
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
	header(bytes, 3, 0, 0);
	for (size_t cut = 0; cut < 104; cut++)
		assert_int_equal(media_check_qcow2(bytes, cut, &err), -1);
	bytes[0] = 'x';
	assert_int_equal(media_check_qcow2(bytes, 104, &err), -1);
}

static void a_record_is_read_as_it_was_written(void **state)
{
	struct record record = {.step = STEP_LOAD, .task = 7, .state_task = 5, .postcopy = true, .uid = 70001}, copy;
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	record.def = example();
	assert_int_equal(record_write(dir, &record, &err), 0);
	assert_int_equal(record_read(dir, &copy, &err), 0);
	assert_true(schema_equal(&record_schema, &record, &copy));
	/* A torn or foreign one is refused, not half read. */
	CLEANUP_FD int fd = openat(dir, "instance.json", O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(record_read(dir, &copy, &err), -1);
	unlinkat(dir, "instance.json", 0);
	assert_int_equal(record_read(dir, &copy, &err), -1);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	rmdir(path);
}

static const char vm[] = "5b1f9d9e-0000-4000-8000-000000000001";

static bool exists(int dir, const char *name)
{
	return !faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

/* From the end of one load to the next save of the same QEMU; garbage is as good as nothing. */
static void hot_pages_are_kept_for_the_next_save(void **state)
{
	char path[64];
	CLEANUP_JSON json_t *list = json_pack("[i, i]", 7, 3), *none = json_object();

	(void)state;
	CLEANUP_FD int fd = temporary_dir(path);
	assert_null(hot_list_get(fd));
	hot_list_keep(fd, none);
	assert_null(hot_list_get(fd));
	hot_list_keep(fd, list);
	CLEANUP_JSON json_t *found = hot_list_get(fd);
	assert_true(json_equal(found, list));
	CLEANUP_FD int file = openat(fd, HOT_LIST_FILE, O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(file, 3), 0);
	assert_null(hot_list_get(fd));
	unlinkat(fd, HOT_LIST_FILE, 0);
	rmdir(path);
}

static void make_state(const char *root, int root_fd, uint64_t task, const char *file)
{
	char name[128];
	struct err err;

	int fd = state_store_create(root, vm, task, 0, 0, &err);
	assert_true(fd >= 0);
	close(fd);
	snprintf(name, sizeof(name), "%s/%llu/%s", vm, (unsigned long long)task, file);
	fd = openat(root_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
}

/* What is purged is what is ours: a directory with a stranger's file in it stays, and so does what is not a number. */
static void purge_takes_only_states_and_not_the_kept(void **state)
{
	char path[64], name[128];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	make_state(path, dir, 3, "ram");
	make_state(path, dir, 4, "manifest");
	make_state(path, dir, 5, "device");
	make_state(path, dir, 9, "sums");
	snprintf(name, sizeof(name), "%s/07", vm);
	assert_int_equal(mkdirat(dir, name, 0700), 0);
	assert_int_equal(state_store_purge(path, vm, 4, 9, &err), 0);
	snprintf(name, sizeof(name), "%s/3", vm);
	assert_false(exists(dir, name));
	snprintf(name, sizeof(name), "%s/4/manifest", vm);
	assert_true(exists(dir, name));
	snprintf(name, sizeof(name), "%s/9/sums", vm);
	assert_true(exists(dir, name));
	snprintf(name, sizeof(name), "%s/07", vm);
	assert_true(exists(dir, name));
	unlinkat(dir, name, AT_REMOVEDIR);
	make_state(path, dir, 2, "notes.txt");
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), -1);
	snprintf(name, sizeof(name), "%s/2/notes.txt", vm);
	assert_true(exists(dir, name));
	unlinkat(dir, name, 0);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	assert_false(exists(dir, vm));
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	rmdir(path);
}

/* A link in the place of a directory leads nowhere. */
static void purge_follows_no_link(void **state)
{
	char path[64], other[64], name[128];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	CLEANUP_FD int other_dir = temporary_dir(other);
	CLEANUP_FD int fd = openat(other_dir, "ram", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(mkdirat(dir, vm, 0700), 0);
	snprintf(name, sizeof(name), "%s/8", vm);
	assert_int_equal(symlinkat(other, dir, name), 0);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), -1);
	assert_true(exists(other_dir, "ram"));
	assert_int_equal(state_store_create(path, vm, 8, 0, 0, &err), -1);
	unlinkat(dir, name, 0);
	unlinkat(dir, vm, AT_REMOVEDIR);
	unlinkat(other_dir, "ram", 0);
	rmdir(path);
	rmdir(other);
}

/* A whole state is never overwritten; litter is; and a state that has no room is not begun. */
static void a_new_state_gets_an_empty_directory_or_none(void **state)
{
	char path[64];
	struct err err;

	(void)state;
	CLEANUP_FD int dir = temporary_dir(path);
	make_state(path, dir, 3, "ram");
	int fd = state_store_create(path, vm, 3, 0, 0, &err);
	assert_true(fd >= 0);
	assert_false(exists(fd, "ram"));
	close(fd);
	assert_int_equal(state_store_create(path, vm, 3, 0, UINT64_MAX / 4, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	make_state(path, dir, 3, "manifest");
	assert_int_equal(state_store_create(path, vm, 3, 0, 0, &err), -1);
	assert_int_equal(err.code, ERR_EXISTS);
	assert_int_equal(state_store_open(path, vm, 4, &err), -1);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	assert_int_equal(state_store_purge(path, vm, 0, 100, &err), 0);
	rmdir(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(images_that_rest_on_others_are_refused),
		cmocka_unit_test(a_record_is_read_as_it_was_written),
		cmocka_unit_test(hot_pages_are_kept_for_the_next_save),
		cmocka_unit_test(purge_takes_only_states_and_not_the_kept),
		cmocka_unit_test(purge_follows_no_link),
		cmocka_unit_test(a_new_state_gets_an_empty_directory_or_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
