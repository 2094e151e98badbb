/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/corosync/strangers.h"

#include "driver/corosync/corosync.h"

#include <ctype.h>
#include <string.h>

enum { GROUPS_MAX = 256 }; /* looked at; nobody has so many */

bool strangers_parse(const char *name, size_t length, const char *group_name, char uuid[UUID_BYTES])
{
	const size_t prefix = strlen(COROSYNC_GROUP_PREFIX);

	if (length != prefix + UUID_BYTES - 1 || memcmp(name, COROSYNC_GROUP_PREFIX, prefix) != 0 ||
		(strlen(group_name) == length && !memcmp(name, group_name, length)))
		return false;
	for (size_t i = prefix; i < length; i++)
		if (!isxdigit((unsigned char)name[i]) && name[i] != '-')
			return false;
	memcpy(uuid, name + prefix, UUID_BYTES - 1);
	uuid[UUID_BYTES - 1] = 0;
	return true;
}

bool strangers_find(cpg_handle_t cpg, const char *group_name, char uuid[UUID_BYTES])
{
	struct cpg_iteration_description_t group;
	cpg_iteration_handle_t iteration;
	bool found = false;

	if (cpg_iteration_initialize(cpg, CPG_ITERATION_NAME_ONLY, NULL, &iteration) != CS_OK)
		return false;
	for (int i = 0; i < GROUPS_MAX && !found && cpg_iteration_next(iteration, &group) == CS_OK; i++)
		if (group.group.length <= CPG_MAX_NAME_LENGTH)
			found = strangers_parse(group.group.value, group.group.length, group_name, uuid);
	cpg_iteration_finalize(iteration);
	return found;
}
