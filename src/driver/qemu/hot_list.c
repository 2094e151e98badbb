/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/qemu/hot_list.h"

#include <fcntl.h>
#include <string.h>

enum { HOT_LIST_BYTES_MAX = 64 << 10 };

void hot_list_keep(int dir_fd, const json_t *list)
{
	if (!json_is_array(list))
		return;
	CLEANUP_FREE char *text = json_dumps(list, JSON_COMPACT);
	CLEANUP_FD int fd = openat(dir_fd, HOT_LIST_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!text || fd < 0)
		return;
	/* Half a list is no JSON, and then there is none. */
	ssize_t ignored = write(fd, text, strlen(text));
	(void)ignored;
}

json_t *hot_list_get(int dir_fd)
{
	CLEANUP_FREE char *text = malloc(HOT_LIST_BYTES_MAX);
	struct err err;

	CLEANUP_FD int fd = openat(dir_fd, HOT_LIST_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t size = text && fd >= 0 ? read(fd, text, HOT_LIST_BYTES_MAX) : -1;
	if (size <= 0)
		return NULL;
	json_t *list = json_parse_bounded(text, (size_t)size, HOT_LIST_BYTES_MAX, &err);
	if (!json_is_array(list)) {
		json_decref(list);
		return NULL;
	}
	return list;
}
