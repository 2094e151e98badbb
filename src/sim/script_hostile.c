/* SPDX-License-Identifier: Apache-2.0
 * Words about messages that no honest node sends: of another cluster, damaged, or for a second time. */
#include "engine/message.h"
#include "sim/node.h"
#include "sim/script.h"

#include <string.h>

/* Of events their kind, of other messages theirs. */
static void name_message(const uint8_t *bytes, size_t size, char *name, size_t name_size)
{
	static struct event event;
	struct message message;
	const uint8_t *payload;
	struct err err;

	if (message_parse(bytes, size, &message, &payload, &err) < 0 || message.kind != MESSAGE_EVENT ||
		schema_decode(&event_schema, payload, (size_t)message.payload_size, &event, &err) < 0)
		snprintf(name, name_size, "%s", message_kind_name((int)message.kind));
	else
		snprintf(name, name_size, "%s", event_kind_name((int)event.kind));
}

/* The newest of the last messages that is of this kind, as name_message says; 0: there is none. */
static uint32_t find_message(const struct net *net, const char *kind, const uint8_t **bytes, size_t *size)
{
	char name[NAME_BYTES];

	for (uint32_t back = 0; back < NET_RECENT_MAX; back++) {
		uint32_t from = net_recent(net, back, bytes, size);
		if (!from)
			return 0;
		name_message(*bytes, *size, name, sizeof(name));
		if (!strcmp(name, kind))
			return from;
	}
	return 0;
}

/* hostile HOW nX [KIND], HOW: foreign, short, long, noise, repeat; of the last message, or of the last of that kind (ack, view,
 * vm-start, loaded, …) */
int script_hostile(const struct words *words)
{
	static uint8_t bytes[GROUP_MESSAGE_MAX];
	struct sim *sim = words->scenario->sim;
	const uint8_t *recent;
	size_t size;
	uint32_t node = words->count > 2 ? script_node(words, words->at[2]) : 0;
	uint32_t from = words->count > 3 ? find_message(sim->net, words->at[3], &recent, &size)
					 : net_recent(sim->net, 0, &recent, &size);

	if (!node || !from)
		return err_set(words->err, ERR_INVALID, "hostile HOW nX [KIND], and a message of that kind");
	size_t recent_size = size;
	memcpy(bytes, recent, size);
	if (!strcmp(words->at[1], "foreign")) {
		uint8_t *uuid = memmem(bytes, size, SIM_CLUSTER_UUID, UUID_BYTES - 1);
		if (uuid)
			uuid[UUID_BYTES - 2] ^= 1;
	} else if (!strcmp(words->at[1], "short")) {
		size /= 2;
	} else if (!strcmp(words->at[1], "long")) {
		memset(bytes + size, 'x', 1000);
		size += 1000;
	} else if (!strcmp(words->at[1], "noise")) {
		for (size_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)(i * 131 + 7);
	} else if (strcmp(words->at[1], "repeat") != 0) {
		return err_set(words->err, ERR_INVALID, "hostile foreign, short, long, noise or repeat");
	}
	char name[NAME_BYTES];
	name_message(recent, recent_size, name, sizeof(name));
	sim_trace(sim, "# a hostile message (%s of %s) from n%u", words->at[1], name, node);
	net_inject(sim->net, node, bytes, size);
	return 0;
}
