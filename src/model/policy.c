/* SPDX-License-Identifier: Apache-2.0 */
#include "model/policy.h"
#include "model/names.h"
#include "model/vm.h"

#include <assert.h>

NAMES_FUNCTION(failback_name, FAILBACKS)
NAMES_FUNCTION(on_panic_name, ON_PANICS)

static const struct field owner_fields[] = {
	SCHEMA_U32(1, vm_owner, node),
};
static SCHEMA_DEFINE(owner_schema, vm_owner, owner_fields);

static const struct field policy_fields[] = {
	SCHEMA_LIST(1, vm_policy, preferred, preferred_count, &owner_schema),
	SCHEMA_U64(2, vm_policy, possible),
	SCHEMA_TEXT(3, vm_policy, anti_affinity),
	SCHEMA_BOOL(4, vm_policy, anti_affinity_hard),
	SCHEMA_U32(5, vm_policy, restart_max),
	SCHEMA_U32(6, vm_policy, restart_period_s),
	SCHEMA_U32(7, vm_policy, retry_after_s),
	SCHEMA_ENUM(8, vm_policy, failback, failback_name, FAILBACK_COUNT),
	SCHEMA_U32(9, vm_policy, failback_from_hour),
	SCHEMA_U32(10, vm_policy, failback_to_hour),
	SCHEMA_U32(11, vm_policy, start_order),
	SCHEMA_U32(12, vm_policy, start_delay_s),
	SCHEMA_ENUM(13, vm_policy, on_panic, on_panic_name, ON_PANIC_COUNT),
	SCHEMA_U32(14, vm_policy, heartbeat_s),
};
SCHEMA_DEFINE(vm_policy_schema, vm_policy, policy_fields);

void vm_policy_pin(struct vm_policy *policy)
{
	if (policy->restart_period_s)
		return;
	policy->restart_period_s = RESTART_PERIOD_S_DEFAULT;
	if (!policy->restart_max)
		policy->restart_max = RESTART_MAX_DEFAULT;
	if (!policy->retry_after_s)
		policy->retry_after_s = RETRY_AFTER_S_DEFAULT;
}

bool vm_policy_window(const struct vm_policy *policy, uint32_t hour)
{
	uint32_t from = policy->failback_from_hour, to = policy->failback_to_hour;

	return from < to ? hour >= from && hour < to : hour >= from || hour < to;
}

static int owners_check(const struct vm_policy *policy, struct err *err)
{
	uint64_t seen = 0;

	for (uint32_t i = 0; i < policy->preferred_count; i++) {
		uint32_t node = policy->preferred[i].node;
		if (node < 1 || node > NODES_MAX)
			return err_set(err, ERR_INVALID, "preferred[%u]: there is no node with id %u", i, node);
		uint64_t bit = UINT64_C(1) << (node - 1);
		if (seen & bit)
			return err_set(err, ERR_INVALID, "preferred[%u]: each node once", i);
		if (policy->possible && !(policy->possible & bit))
			return err_set(err, ERR_INVALID, "preferred[%u]: a preferred owner must be a possible one", i);
		seen |= bit;
	}
	return 0;
}

static int restart_check(const struct vm_policy *policy, struct err *err)
{
	if (policy->restart_max > RESTART_MAX_LIMIT)
		return err_set(err, ERR_INVALID, "restart_max %u: at most %d are allowed", policy->restart_max,
			RESTART_MAX_LIMIT);
	if (policy->restart_period_s &&
		(policy->restart_period_s < RESTART_PERIOD_S_MIN || policy->restart_period_s > POLICY_SECONDS_MAX))
		return err_set(err, ERR_INVALID, "restart_period_s %u: allowed are %d to %d s",
			policy->restart_period_s, RESTART_PERIOD_S_MIN, POLICY_SECONDS_MAX);
	if (policy->retry_after_s > POLICY_SECONDS_MAX)
		return err_set(err, ERR_INVALID, "retry_after_s %u: at most %d s are allowed", policy->retry_after_s,
			POLICY_SECONDS_MAX);
	return 0;
}

static int failback_check(const struct vm_policy *policy, struct err *err)
{
	if (policy->failback == FAILBACK_NEVER)
		return 0;
	if (!policy->preferred_count)
		return err_set(err, ERR_INVALID, "failback '%s' needs a preferred owner to go back to",
			failback_name((int)policy->failback));
	if (policy->failback != FAILBACK_WINDOW)
		return 0;
	if (policy->failback_from_hour > 23 || policy->failback_to_hour > 23 ||
		policy->failback_from_hour == policy->failback_to_hour)
		return err_set(err, ERR_INVALID, "failback from %u to %u: two different hours from 0 to 23, UTC",
			policy->failback_from_hour, policy->failback_to_hour);
	return 0;
}

int vm_policy_check(const struct vm_policy *policy, struct err *err)
{
	if (owners_check(policy, err) < 0 || restart_check(policy, err) < 0 || failback_check(policy, err) < 0)
		return -1;
	if (policy->anti_affinity[0] && !name_ok(policy->anti_affinity))
		return err_set(err, ERR_INVALID,
			"anti_affinity '%s': a label has 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-'",
			policy->anti_affinity);
	if (policy->anti_affinity_hard && !policy->anti_affinity[0])
		return err_set(err, ERR_INVALID, "anti_affinity_hard needs a label");
	if (policy->start_order > START_ORDER_MAX)
		return err_set(
			err, ERR_INVALID, "start_order %u: allowed are 0 to %d", policy->start_order, START_ORDER_MAX);
	if (policy->start_delay_s > START_DELAY_S_MAX)
		return err_set(err, ERR_INVALID, "start_delay_s %u: at most %d s are allowed", policy->start_delay_s,
			START_DELAY_S_MAX);
	if (policy->heartbeat_s && (policy->heartbeat_s < HEARTBEAT_S_MIN || policy->heartbeat_s > HEARTBEAT_S_MAX))
		return err_set(err, ERR_INVALID, "heartbeat_s %u: allowed are %d to %d s, or 0 for none", policy->heartbeat_s,
			HEARTBEAT_S_MIN, HEARTBEAT_S_MAX);
	return 0;
}
