/* SPDX-License-Identifier: Apache-2.0
 * The API's calls, on a real socket and real engines in one process: what is refused and by which rule, and what an honest
 * client may rely on. */
#include "support/api_peer.h"

static void bad_definitions_name_the_rule(void **state)
{
	static const struct {
		const char *definition, *code, *holds;
	} bad[] = {
		{"{}", "invalid", "name"},
		{"{\"name\":\"web\",\"memory_mib\":0}", "invalid", "memory 0 MiB: allowed are 16"},
		{"{\"name\":\"web\",\"memory_mib\":-5}", "invalid", "memory_mib: a whole number from 0"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"vcpus\":1000000000}", "invalid", "vCPUs: allowed are 1 to 256"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"vcpus\":1e9}", "invalid", "vcpus: a whole number"},
		{"{\"name\":\"web\",\"memory_mib\":64}", "invalid", "nothing to boot from"},
		{"{\"name\":\"../web\",\"memory_mib\":64}", "invalid", "name '../web'"},
		{"{\"name\":\"web;reboot\",\"memory_mib\":64}", "invalid", "name 'web;reboot'"},
		{"{\"name\":\"w\xd0\xb5"
		 "b\",\"memory_mib\":64}",
			"invalid", "1 to 63 of a-z"},
		{"{\"name\":\"web\",\"memory\":64}", "invalid", "unknown key 'memory'"},
		{"{\"name\":\"web\",\"policy\":{\"preferred\":[\"n9\"]}}", "not-found", "preferred: no node 'n9'"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"kernel\":\"/bin/sh\",\"policy\":{\"heartbeat_s\":5}}", "invalid",
			"heartbeat_s 5: allowed are 10 to 3600 s"},
		{"{\"name\":\"web\",\"policy\":{\"possible\":[1]}}", "invalid", "possible: no node"},
		{"{\"name\":\"web\",\"policy\":{\"possible\":7}}", "invalid", "a list of nodes' names"},
		{"{\"name\":\"web\",\"policy\":{\"restarts\":7}}", "invalid", "unknown key 'restarts'"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"exec:reboot\"}]}", "invalid",
			"must be an absolute path"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/no/such/disk\"}]}", "not-found",
			"disk disk0: /no/such/disk"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/tmp\"}]}", "invalid",
			"/tmp is a directory"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"disks\":[{\"path\":\"/dev/null\"}]}", "invalid",
			"neither a file nor a block device"},
		{"{\"name\":\"web\",\"memory_mib\":64,\"kernel\":\"/no/vmlinuz\"}", "not-found", "kernel: /no/vmlinuz"},
	};
	struct peer *peer = peer_new(*state);
	char line[1024];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(line, sizeof(line), "{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":%s}}",
			bad[i].definition);
		peer_refused(peer, line, bad[i].code, bad[i].holds);
	}
	peer_free(peer);
}

static void a_disk_of_another_format_is_refused(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[512];

	snprintf(line, sizeof(line),
		"{\"id\":1,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"web\",\"memory_mib\":64,"
		"\"disks\":[{\"path\":\"%s\",\"format\":\"qcow2\"}]}}}",
		f->disk);
	peer_refused(peer, line, "invalid", "is no qcow2 image, the definition says format qcow2");
	peer_free(peer);
}

static void a_vm_is_created_pinned_and_moved(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	peer_create_web(peer);
	CLEANUP_JSON json_t *vm = peer_answer(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	const json_t *definition = json_object_get(json_object_get(vm, "result"), "definition");
	assert_int_equal(strlen(json_string_value(json_object_get(definition, "uuid"))), 36);
	assert_string_equal(json_string_value(json_object_get(definition, "machine")), "pc-q35-7.2");
	assert_string_equal(json_string_value(json_object_get(definition, "panic_device")), "isa");
	assert_string_equal(json_string_value(json_object_get(definition, "guest_agent")), "none");
	const json_t *nic = json_array_get(json_object_get(definition, "nics"), 0);
	assert_int_equal(strncmp(json_string_value(json_object_get(nic, "mac")), "52:54:00:", 9), 0);

	CLEANUP_JSON json_t *subscribed =
		peer_answer(peer, "{\"id\":3,\"call\":\"subscribe\",\"args\":{\"vm\":\"web\"}}", 3);
	assert_non_null(json_object_get(subscribed, "result"));
	peer_refused(peer, "{\"id\":4,\"call\":\"subscribe\"}", "exists", "a subscription already");
	CLEANUP_JSON json_t *start =
		peer_answer(peer, "{\"id\":5,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"node\":\"n1\"}}", 5);
	char line[128];
	snprintf(line, sizeof(line), "{\"id\":6,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}",
		(long long)json_integer_value(json_object_get(json_object_get(start, "result"), "task")));
	CLEANUP_JSON json_t *started = peer_answer(peer, line, 6);
	assert_string_equal(peer_text(started, "result", "state"), "done");

	CLEANUP_JSON json_t *move =
		peer_answer(peer, "{\"id\":7,\"call\":\"vm.move\",\"args\":{\"vm\":\"web\",\"target\":\"n2\"}}", 7);
	json_int_t task = json_integer_value(json_object_get(json_object_get(move, "result"), "task"));
	assert_true(task > 0);
	snprintf(line, sizeof(line), "{\"id\":8,\"call\":\"task.wait\",\"args\":{\"task\":%lld}}", (long long)task);
	peer_say(peer, line);
	/* News of every kind comes before the end of the task is told. */
	bool saw_vm = false, saw_progress = false, saw_task = false;
	for (bool ended = false; !ended;) {
		CLEANUP_JSON json_t *message = peer_hear(peer);
		assert_non_null(message);
		const char *kind = peer_text(message, "event", "kind");
		saw_vm |= !strcmp(kind, "vm");
		saw_progress |= !strcmp(kind, "progress");
		saw_task |= !strcmp(kind, "task");
		if (json_object_get(message, "event"))
			assert_int_equal(json_integer_value(json_object_get(message, "id")), 3);
		if (json_integer_value(json_object_get(message, "id")) != 8)
			continue;
		ended = true;
		assert_string_equal(peer_text(message, "result", "state"), "done");
		const json_t *spans = json_object_get(json_object_get(message, "result"), "spans_us");
		assert_true(json_integer_value(json_object_get(spans, "blackout")) > 0);
	}
	assert_true(saw_vm && saw_progress && saw_task);
	peer_refused(peer, "{\"id\":9,\"call\":\"vm.console\",\"args\":{\"vm\":\"web\"}}", "unfit",
		"runs on n2, this is n1");
	peer_free(peer);
}

static void a_dry_run_changes_nothing(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	peer_create_web(peer);
	uint64_t index = engine_cluster(world_engine(f->world, 1))->index;
	CLEANUP_JSON json_t *start =
		peer_answer(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"dry_run\":true}}", 2);
	assert_true(json_is_true(json_object_get(json_object_get(start, "result"), "dry_run")));
	peer_refused(peer, "{\"id\":3,\"call\":\"vm.stop\",\"args\":{\"vm\":\"web\",\"dry_run\":true}}", "unfit", "web");
	assert_int_equal(engine_cluster(world_engine(f->world, 1))->index, index);
	peer_free(peer);
}

/* A creation that asks for a heartbeat has the channel; an edit would change the machine, and says so. */
static void a_heartbeat_needs_the_agents_channel(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);
	char line[512];

	peer_create_web(peer);
	snprintf(line, sizeof(line),
		"{\"id\":2,\"call\":\"vm.edit\",\"args\":{\"vm\":\"web\",\"definition\":{\"name\":\"web\",\"memory_mib\":512,"
		"\"disks\":[{\"path\":\"%s\"}],\"policy\":{\"heartbeat_s\":30}}}}",
		f->disk);
	peer_refused(peer, line, "invalid", "'vm edit web --guest-agent virtio' adds one");
	snprintf(line, sizeof(line),
		"{\"id\":3,\"call\":\"vm.create\",\"args\":{\"definition\":{\"name\":\"beat\",\"memory_mib\":64,"
		"\"kernel\":\"%s\",\"policy\":{\"heartbeat_s\":30}}}}",
		f->disk);
	CLEANUP_JSON json_t *created = peer_answer(peer, line, 3);
	assert_non_null(json_object_get(created, "result"));
	CLEANUP_JSON json_t *vm = peer_answer(peer, "{\"id\":4,\"call\":\"vm.show\",\"args\":{\"vm\":\"beat\"}}", 4);
	const json_t *definition = json_object_get(json_object_get(vm, "result"), "definition");
	assert_string_equal(json_string_value(json_object_get(definition, "guest_agent")), "virtio");
	peer_free(peer);
}

/* An edit is refused where somebody else's came in between, not silently won by the later one. */
static void an_edit_does_not_overwrite_anothers(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	peer_create_web(peer);
	CLEANUP_JSON json_t *vm = peer_answer(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	json_t *was = json_object_get(json_object_get(vm, "result"), "definition");
	CLEANUP_JSON json_t *mine = json_deep_copy(was);
	json_object_set_new(mine, "memory_mib", json_integer(256));
	CLEANUP_JSON json_t *call = json_pack("{s:i, s:s, s:{s:s, s:O, s:O}}", "id", 3, "call", "vm.edit", "args", "vm",
		"web", "was", was, "definition", mine);
	CLEANUP_FREE char *line = json_dumps(call, JSON_COMPACT);
	CLEANUP_JSON json_t *first = peer_answer(peer, line, 3);
	assert_non_null(json_object_get(first, "result"));
	peer_refused(peer, line, "busy", "was changed by somebody else");
	peer_free(peer);
}

/* People know nodes by name: what is written with names is shown with names, in the same order. */
static void owners_are_told_by_name(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	peer_create_web(peer);
	CLEANUP_JSON json_t *vm = peer_answer(peer, "{\"id\":2,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 2);
	json_t *mine = json_object_get(json_object_get(vm, "result"), "definition");
	json_t *policy = json_pack("{s:[ss], s:[ss], s:s, s:i, s:i}", "preferred", "n2", "n1", "possible", "n1", "n2",
		"failback", "window", "failback_from_hour", 22, "failback_to_hour", 4);
	json_object_update(json_object_get(mine, "policy"), policy);
	CLEANUP_JSON json_t *call = json_pack(
		"{s:i, s:s, s:{s:s, s:O}}", "id", 3, "call", "vm.edit", "args", "vm", "web", "definition", mine);
	CLEANUP_FREE char *line = json_dumps(call, JSON_COMPACT);
	CLEANUP_JSON json_t *edited = peer_answer(peer, line, 3);
	assert_non_null(json_object_get(edited, "result"));
	CLEANUP_JSON json_t *after = peer_answer(peer, "{\"id\":4,\"call\":\"vm.show\",\"args\":{\"vm\":\"web\"}}", 4);
	const json_t *shown = json_object_get(json_object_get(json_object_get(after, "result"), "definition"), "policy");
	assert_true(json_equal(json_object_get(shown, "preferred"), json_object_get(policy, "preferred")));
	assert_true(json_equal(json_object_get(shown, "possible"), json_object_get(policy, "possible")));
	assert_int_equal(cluster_vm_find(engine_cluster(world_engine(f->world, 1)), "web")->def.policy.possible, 3);
	json_decref(policy);
	peer_free(peer);
}

static void without_quorum_it_says_so(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	peer_create_web(peer);
	world_cut(f->world, 1, true);
	for (int i = 0; i < 20; i++)
		poll_loop_once(f->loop, 1);
	peer_refused(peer, "{\"id\":1,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\"}}", "no-quorum",
		"cannot change the cluster");
	/* What was committed can still be read. */
	CLEANUP_JSON json_t *list = peer_answer(peer, "{\"id\":2,\"call\":\"vm.list\"}", 2);
	assert_int_equal(json_array_size(json_object_get(json_object_get(list, "result"), "vms")), 1);
	peer_free(peer);
}

/* A daemon that was just started, or is cut off, does not know all tasks: it must not say that there is none. */
static void a_node_out_of_sync_denies_no_task(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	world_cut(f->world, 1, true);
	for (int i = 0; i < 20; i++)
		poll_loop_once(f->loop, 1);
	peer_say(peer, "{\"id\":1,\"call\":\"task.wait\",\"args\":{\"task\":999}}");
	peer_refused(peer, "{\"id\":2,\"call\":\"task.show\",\"args\":{\"task\":999}}", "not-found", "no task 999");
	world_cut(f->world, 1, false);
	CLEANUP_JSON json_t *answer = peer_hear(peer);
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 1);
	assert_string_equal(peer_text(answer, "error", "code"), "not-found");
	peer_free(peer);
}

#define SET_N2                                                                                                         \
	"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"create\":true,\"device\":{\"name\":\"ipmi-n2\",\"node\":\"n2\","              \
	"\"agent\":\"fence_ipmilan\",\"options\":[{\"name\":\"ip\",\"value\":\"192.0.2.2\"}]}}}"

static void done(struct peer *peer, const char *line)
{
	CLEANUP_JSON json_t *answer = peer_answer(peer, line, 1);

	if (!json_object_get(answer, "result"))
		fail_msg("%.80s gave %s", line, json_dumps(answer, 0));
}

static void fence_devices_are_checked_kept_and_shown(void **state)
{
	struct peer *peer = peer_new(*state);

	peer_refused(peer, "{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n9\"}}}", "not-found",
		"no node 'n9'");
	peer_refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"sh\"}}}",
		"invalid", "agent 'sh'");
	peer_refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"fence_a\","
		"\"options\":[{\"name\":\"password\",\"value\":\"hunter2\"}]}}}",
		"invalid", "is a secret");
	peer_refused(peer,
		"{\"id\":1,\"call\":\"fence.set\",\"args\":{\"device\":{\"name\":\"a\",\"node\":\"n2\",\"agent\":\"fence_unfit\"}}}",
		"not-found", "agent 'fence_unfit' is not there");
	done(peer, SET_N2);
	peer_refused(peer, SET_N2, "exists", "'ipmi-n2' exists already");
	CLEANUP_JSON json_t *shown =
		peer_answer(peer, "{\"id\":2,\"call\":\"fence.show\",\"args\":{\"device\":\"ipmi-n2\"}}", 2);
	assert_string_equal(peer_text(shown, "result", "node"), "n2");
	assert_string_equal(peer_text(shown, "result", "agent"), "fence_ipmilan");
	/* What is shown can be set again. */
	CLEANUP_JSON json_t *again = json_pack("{s:i, s:s, s:{s:O, s:b}}", "id", 1, "call", "fence.set", "args",
		"device", json_object_get(shown, "result"), "no_check", 1);
	CLEANUP_FREE char *line = json_dumps(again, JSON_COMPACT);
	done(peer, line);
	CLEANUP_JSON json_t *node = peer_answer(peer, "{\"id\":2,\"call\":\"node.show\",\"args\":{\"node\":\"n2\"}}", 2);
	assert_int_equal(json_array_size(json_object_get(json_object_get(node, "result"), "fence_devices")), 1);
	CLEANUP_JSON json_t *log = peer_answer(peer, "{\"id\":2,\"call\":\"log.list\"}", 2);
	CLEANUP_FREE char *text = json_dumps(log, 0);
	assert_non_null(strstr(text, "fence device ipmi-n2: set by root: n2 with fence_ipmilan, level 1"));
	done(peer, "{\"id\":1,\"call\":\"fence.remove\",\"args\":{\"device\":\"ipmi-n2\"}}");
	peer_refused(peer, "{\"id\":1,\"call\":\"fence.check\",\"args\":{\"device\":\"ipmi-n2\"}}", "not-found",
		"no fence device 'ipmi-n2'");
	peer_free(peer);
}

/* A test takes the power of a machine that is alive: its name must be typed, and nothing may depend on it. */
static void a_test_switches_off_only_what_nobody_needs(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);

	done(peer, SET_N2);
	CLEANUP_JSON json_t *status =
		peer_answer(peer, "{\"id\":2,\"call\":\"fence.status\",\"args\":{\"device\":\"ipmi-n2\"}}", 2);
	assert_string_equal(peer_text(status, "result", "power"), "on");
	peer_refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n3\"}}", "invalid",
		"'n3', is not that of n2");
	peer_create_web(peer);
	CLEANUP_JSON json_t *start =
		peer_answer(peer, "{\"id\":2,\"call\":\"vm.start\",\"args\":{\"vm\":\"web\",\"node\":\"n2\"}}", 2);
	assert_non_null(json_object_get(start, "result"));
	peer_refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}", "unfit",
		"n2 has VM 'web'");
	done(peer, "{\"id\":1,\"call\":\"vm.stop\",\"args\":{\"vm\":\"web\"}}");
	while (cluster_vm_find(engine_cluster(world_engine(f->world, 1)), "web")->owner)
		poll_loop_once(f->loop, 5);
	done(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}");
	assert_false(world_has_power(f->world, 2));
	while (cluster_node(engine_cluster(world_engine(f->world, 1)), 2)->state == NODE_ONLINE)
		poll_loop_once(f->loop, 5);
	peer_refused(peer, "{\"id\":1,\"call\":\"fence.off\",\"args\":{\"device\":\"ipmi-n2\",\"confirm\":\"n2\"}}", "unfit",
		"a test needs all nodes online");
	done(peer, "{\"id\":1,\"call\":\"fence.on\",\"args\":{\"device\":\"ipmi-n2\"}}");
	assert_true(world_has_power(f->world, 2));
	peer_free(peer);
}

static void a_person_may_say_that_a_lost_node_is_off(void **state)
{
	struct api_fixture *f = *state;
	struct peer *peer = peer_new(f);
	const struct cluster *cluster = engine_cluster(world_engine(f->world, 1));

	peer_refused(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n3\"}}", "unfit",
		"it is alive");
	world_cut(f->world, 3, true);
	while (cluster_node(cluster, 3)->state == NODE_ONLINE)
		poll_loop_once(f->loop, 5);
	peer_refused(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n2\"}}", "invalid",
		"is not that of n3");
	peer_refused(peer, "{\"id\":1,\"call\":\"node.fence\",\"args\":{\"node\":\"n3\"}}", "unfit", "no fence device");
	done(peer, "{\"id\":1,\"call\":\"node.confirm_off\",\"args\":{\"node\":\"n3\",\"confirm\":\"n3\"}}");
	assert_int_equal(cluster_node(cluster, 3)->state, NODE_DEAD);
	CLEANUP_JSON json_t *node = peer_answer(peer, "{\"id\":2,\"call\":\"node.show\",\"args\":{\"node\":\"n3\"}}", 2);
	assert_string_equal(
		peer_text(json_object_get(node, "result"), "fencing", "proof"), "confirmed");
	peer_free(peer);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, api_fixture_setup, api_fixture_teardown)
	static const struct CMUnitTest tests[] = {
		T(bad_definitions_name_the_rule),
		T(a_disk_of_another_format_is_refused),
		T(a_vm_is_created_pinned_and_moved),
		T(a_dry_run_changes_nothing),
		T(a_heartbeat_needs_the_agents_channel),
		T(an_edit_does_not_overwrite_anothers),
		T(owners_are_told_by_name),
		T(without_quorum_it_says_so),
		T(a_node_out_of_sync_denies_no_task),
		T(fence_devices_are_checked_kept_and_shown),
		T(a_test_switches_off_only_what_nobody_needs),
		T(a_person_may_say_that_a_lost_node_is_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
