/* SPDX-License-Identifier: Apache-2.0
 * Words about VMs: what is asked of them, and what their definitions say. */
#include "sim/script.h"

#include <stdlib.h>
#include <string.h>

/* "n3,n1": bits, and the order in nodes (may be NULL). */
static uint64_t node_list(const struct words *words, const char *list, struct vm_policy *preferred)
{
	char text[128], *save = NULL;
	uint64_t bits = 0;

	snprintf(text, sizeof(text), "%s", list);
	for (char *w = strtok_r(text, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		uint32_t id = script_node(words, w);
		if (!id)
			return 0;
		bits |= node_bit(id);
		if (preferred && preferred->preferred_count < OWNERS_PREFERRED_MAX)
			preferred->preferred[preferred->preferred_count++].node = id;
	}
	return bits;
}

static int enum_word(const char *word, const char *(*name)(int), int count)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(word, name(i)))
			return i;
	return -1;
}

/* One word and its value; what it cannot mean is said. */
static int vm_word(const struct words *words, const char *word, const char *value, struct vm_def *def)
{
	struct vm_policy *policy = &def->policy;
	const struct {
		const char *name;
		uint32_t *value;
	} numbers[] = {
		{"memory", &def->memory_mib},
		{"vcpus", &def->vcpus},
		{"order", &policy->start_order},
		{"delay", &policy->start_delay_s},
		{"restarts", &policy->restart_max},
		{"period", &policy->restart_period_s},
		{"retry", &policy->retry_after_s},
		{"from-hour", &policy->failback_from_hour},
		{"to-hour", &policy->failback_to_hour},
	};
	int is = -1;

	if (!strcmp(word, "heartbeat")) {
		policy->heartbeat_s = (uint32_t)strtoul(value, NULL, 10);
		def->guest_agent = GUEST_AGENT_VIRTIO;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		if (strcmp(word, numbers[i].name) != 0)
			continue;
		*numbers[i].value = (uint32_t)strtoul(value, NULL, 10);
		return 0;
	}
	if (!strcmp(word, "priority") && (is = enum_word(value, vm_priority_name, PRIORITY_COUNT)) >= 0)
		def->priority = (enum vm_priority)is;
	else if (!strcmp(word, "failback") && (is = enum_word(value, failback_name, FAILBACK_COUNT)) >= 0)
		policy->failback = (enum failback)is;
	else if (!strcmp(word, "preferred")) {
		policy->preferred_count = 0;
		return node_list(words, value, policy) ? 0 : -1;
	} else if (!strcmp(word, "possible"))
		return (policy->possible = node_list(words, value, NULL)) ? 0 : -1;
	else if (!strcmp(word, "apart") || !strcmp(word, "apart-hard")) {
		snprintf(policy->anti_affinity, sizeof(policy->anti_affinity), "%s", value);
		policy->anti_affinity_hard = !strcmp(word, "apart-hard");
	} else
		return err_set(words->err, ERR_INVALID, "'%s %s' of a VM is not understood", word, value);
	return 0;
}

int script_vm_words(const struct words *words, int first, struct vm_def *def)
{
	for (int w = first; w < words->count; w += 2) {
		if (w + 1 == words->count)
			return err_set(words->err, ERR_INVALID, "'%s' of a VM needs a value", words->at[w]);
		if (vm_word(words, words->at[w], words->at[w + 1], def) < 0)
			return -1;
	}
	return 0;
}

/* What only requests have, taken from among the words, so that the rest are the definition's. */
static struct words definition_words(const struct words *words)
{
	struct words rest = {.scenario = words->scenario, .err = words->err};

	for (int w = 3; w < words->count; w++) {
		if (!strcmp(words->at[w], "force") || !strcmp(words->at[w], "dry-run"))
			continue;
		if (!strcmp(words->at[w], "to") || !strcmp(words->at[w], "via"))
			w++;
		else
			rest.at[rest.count++] = words->at[w];
	}
	return rest;
}

/* vm VERB NAME [to nX] [via nY] [force] [dry-run], and for create and edit: [priority P] [possible nX,nY] … */
int script_vm(const struct words *words)
{
	static const struct {
		const char *verb;
		enum event_kind kind;
	} verbs[] = {
		{"create", EVENT_VM_CREATE},
		{"edit", EVENT_VM_EDIT},
		{"delete", EVENT_VM_DELETE},
		{"start", EVENT_VM_START},
		{"shutdown", EVENT_VM_SHUTDOWN},
		{"stop", EVENT_VM_STOP},
		{"save", EVENT_VM_SAVE},
		{"move", EVENT_VM_MOVE},
		{"cancel", EVENT_VM_CANCEL},
	};
	struct vm_def *def = words->count >= 3 ? script_vm_of(words, words->at[2]) : NULL;
	struct event event = {.force = script_has(words, "force"), .dry_run = script_has(words, "dry-run")};

	if (!def)
		return err_set(words->err, ERR_INVALID, "vm VERB NAME: which VM?");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(words->at[1], verbs[i].verb) != 0)
			continue;
		struct words rest = definition_words(words);
		event.kind = verbs[i].kind;
		event.target = script_node_after(words, "to", 0);
		strcpy(event.vm, def->uuid);
		if (script_vm_words(&rest, 0, def) < 0)
			return -1;
		if (event.kind == EVENT_VM_CREATE || event.kind == EVENT_VM_EDIT)
			event.def = *def;
		return script_ask(words, &event);
	}
	return err_set(words->err, ERR_INVALID, "no verb '%s'", words->at[1]);
}
