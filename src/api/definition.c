/* SPDX-License-Identifier: Apache-2.0
 * A VM's definition between the API and the model. The same record but for the owners of the policy: people know nodes
 * by name, the model by id. */
#include "api/internal.h"

#include <string.h>

json_t *node_name_json(const struct cluster *cluster, uint32_t id)
{
	if (!id || id > NODES_MAX)
		return json_null();
	const struct node *node = cluster_node(cluster, id);
	return node->facts.name[0] ? json_string(node->facts.name) : json_sprintf("node-%u", id);
}

/* The reverse, 0 where no node is called so. */
static uint32_t node_of_name(const struct cluster *cluster, const char *name)
{
	const struct node *node = cluster_node_find(cluster, name);
	char unnamed[16];

	if (node)
		return node->id;
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		snprintf(unnamed, sizeof(unnamed), "node-%u", id);
		if (!cluster_node(cluster, id)->facts.name[0] && !strcmp(name, unnamed))
			return id;
	}
	return 0;
}

json_t *definition_to_json(const struct cluster *cluster, const struct vm_def *def)
{
	json_t *json = json_from_record(&vm_def_schema, def, JSON_SKIP_ZERO);
	json_t *policy = json_object_get(json, "policy");
	json_t *preferred = json_array(), *possible = json_array();

	for (uint32_t i = 0; i < def->policy.preferred_count; i++)
		json_array_append_new(preferred, node_name_json(cluster, def->policy.preferred[i].node));
	for (uint32_t id = 1; id <= NODES_MAX; id++)
		if (def->policy.possible & node_bit(id))
			json_array_append_new(possible, node_name_json(cluster, id));
	if (json_array_size(preferred))
		json_object_set(policy, "preferred", preferred);
	if (json_array_size(possible))
		json_object_set(policy, "possible", possible);
	json_decref(preferred);
	json_decref(possible);
	return json;
}

/* A list of names; each found node goes into bits and, where there is room for an order, into owners. */
static int owners_from_json(const struct cluster *cluster, const json_t *names, const char *key, size_t max,
	struct vm_owner *owners, uint64_t *bits, struct err *err)
{
	if (!json_is_array(names))
		return err_set(err, ERR_INVALID, "policy: %s: a list of nodes' names expected", key);
	if (json_array_size(names) > max)
		return err_set(err, ERR_INVALID, "policy: %s: %zu entries, at most %zu are allowed", key,
			json_array_size(names), max);
	for (size_t i = 0; i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		uint32_t id = name ? node_of_name(cluster, name) : 0;
		if (!id)
			return err_set(err, name ? ERR_NOT_FOUND : ERR_INVALID, "policy: %s: no node '%.63s'", key,
				name ? name : "(a name expected)");
		if (owners)
			owners[i].node = id;
		*bits |= node_bit(id);
	}
	return 0;
}

int definition_from_json(const struct cluster *cluster, const json_t *json, struct vm_def *def, struct err *err)
{
	const json_t *policy = json_object_get(json, "policy");
	const json_t *preferred = json_object_get(policy, "preferred"), *possible = json_object_get(policy, "possible");
	struct vm_owner owners[OWNERS_PREFERRED_MAX] = {0};
	uint64_t preferred_bits = 0, possible_bits = 0;

	if (!preferred && !possible)
		return json_to_record(&vm_def_schema, json, 0, def, err);
	if (preferred &&
		owners_from_json(cluster, preferred, "preferred", ARRAY_SIZE(owners), owners, &preferred_bits, err) < 0)
		return -1;
	if (possible && owners_from_json(cluster, possible, "possible", NODES_MAX, NULL, &possible_bits, err) < 0)
		return -1;
	CLEANUP_JSON json_t *copy = json_copy((json_t *)(uintptr_t)json);
	json_t *rest = json_copy((json_t *)(uintptr_t)policy);
	json_object_del(rest, "preferred");
	json_object_del(rest, "possible");
	json_object_set_new(copy, "policy", rest);
	if (json_to_record(&vm_def_schema, copy, 0, def, err) < 0)
		return -1;
	def->policy.preferred_count = (uint32_t)json_array_size(preferred);
	memcpy(def->policy.preferred, owners, sizeof(owners));
	def->policy.possible = possible_bits;
	return 0;
}
