/* SPDX-License-Identifier: Apache-2.0
 * When the driver for corosync tells a view: the orders in which its two sockets may be read. */
#include "driver/corosync/strangers.h"
#include "driver/corosync/views.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { N1 = 1, N2 = 2, N3 = 4 };

static const struct ring ring_a = {.leader = 1, .seq = 8};
static const struct ring ring_b = {.leader = 1, .seq = 12};
static const struct ring ring_c = {.leader = 1, .seq = 16};

static void tell(struct views *views, uint64_t members, bool quorate)
{
	struct group_view view;

	assert_true(views_due(views, &view));
	assert_int_equal(view.members, members);
	assert_int_equal(view.ring_seq, views->cpg_ring.seq);
	view.quorate = quorate;
	view.expected_votes = 3;
	views_tell(views, &view);
	assert_false(views_due(views, &view));
}

static bool due(const struct views *views)
{
	struct group_view view;
	return views_due(views, &view);
}

/* Three nodes in ring A, told. */
static struct views together(void)
{
	struct views views = {0};

	views_on_quorum(&views, ring_a, true);
	views_on_members(&views, N1, true, false);
	views_on_totem(&views, ring_a, N1 | N2 | N3);
	tell(&views, N1, false);
	views_on_members(&views, N1 | N2, true, false);
	tell(&views, N1 | N2, true);
	views_on_members(&views, N1 | N2 | N3, true, false);
	tell(&views, N1 | N2 | N3, true);
	assert_true(views_accepts(&views, 2));
	return views;
}

/* CPG tells the membership before the ring. At that point the known ring is the old, quorate one: telling a view would
 * give a node that was cut off a quorate view of itself alone, and two clusters. */
static void a_node_that_is_cut_off_gets_no_quorate_view(void **state)
{
	struct views views = together();

	(void)state;
	views_on_members(&views, N1, true, true);
	assert_false(due(&views));
	assert_false(views_hold(&views)); /* the totem callback is yet to be read */
	views_on_totem(&views, ring_b, N1);
	assert_false(due(&views));
	assert_true(views_hold(&views));
	views_on_quorum(&views, ring_b, false);
	assert_false(views_hold(&views));
	tell(&views, N1, false);
}

static void the_quorum_service_may_be_read_first(void **state)
{
	struct views views = together();

	(void)state;
	views_on_quorum(&views, ring_b, true);
	assert_false(due(&views));
	assert_false(views_hold(&views));
	assert_true(views_accepts(&views, 3)); /* sent in ring A, and in order with it */
	views_on_members(&views, N1 | N2, true, true);
	assert_false(views_accepts(&views, 2));
	assert_false(due(&views));
	views_on_totem(&views, ring_b, N1 | N2);
	tell(&views, N1 | N2, true);
	assert_true(views_accepts(&views, 2));
	assert_false(views_accepts(&views, 3));
}

/* The ring breaks before votequorum's turn: no member of it knows its quorum, so nothing of it is told. */
static void a_ring_that_quorum_never_named_is_skipped(void **state)
{
	struct views views = together();

	(void)state;
	views_on_members(&views, N1 | N2, true, true);
	views_on_totem(&views, ring_b, N1 | N2);
	assert_true(views_hold(&views));
	views_on_quorum(&views, ring_c, true);
	assert_false(views_hold(&views));
	assert_false(due(&views));
	assert_false(views_accepts(&views, 2));
	views_on_members(&views, N1 | N2 | N3, true, true);
	views_on_totem(&views, ring_c, N1 | N2 | N3);
	tell(&views, N1 | N2 | N3, true);
}

/* A daemon that restarts while its corosync lives. The others must hear of it even if the members are the same again.
 */
static void a_daemons_restart_is_a_new_view_in_the_same_ring(void **state)
{
	struct views views = together();

	(void)state;
	views_on_members(&views, N1 | N2, true, false);
	tell(&views, N1 | N2, true);
	assert_int_equal(views.told.ring_seq, ring_a.seq);
	views_on_members(&views, N1 | N2 | N3, true, false);
	tell(&views, N1 | N2 | N3, true);
	views_on_members(&views, N1 | N2 | N3, true, false);
	tell(&views, N1 | N2 | N3, true);
}

/* A process joins while the quorum service is ahead: its messages come to a view that does not know it. */
static void a_join_while_quorum_is_ahead_waits_for_the_ring(void **state)
{
	struct views views = {0};

	(void)state;
	views_on_quorum(&views, ring_a, true);
	views_on_members(&views, N1 | N2, true, false);
	views_on_totem(&views, ring_a, N1 | N2 | N3);
	tell(&views, N1 | N2, true);
	views_on_quorum(&views, ring_b, true);
	views_on_members(&views, N1 | N2 | N3, true, false);
	assert_false(due(&views));
	assert_false(views_accepts(&views, 3));
	assert_false(views_accepts(&views, 2));
	views_on_totem(&views, ring_b, N1 | N2 | N3);
	tell(&views, N1 | N2 | N3, true);
}

/* The first totem callback after a join may name a ring that CPG is only about to enter, with the old nodes. */
static void members_outside_of_the_ring_are_left_out(void **state)
{
	struct views views = {0};

	(void)state;
	views_on_members(&views, N1 | N2 | N3, true, false);
	assert_false(due(&views));
	views_on_totem(&views, ring_b, N1 | N2);
	views_on_quorum(&views, ring_b, true);
	tell(&views, N1 | N2, true);
	views_on_members(&views, N1 | N2, true, true);
	views_on_totem(&views, ring_b, N1 | N2);
	tell(&views, N1 | N2, true);
}

static void nothing_is_told_before_the_own_process_is_in(void **state)
{
	struct views views = {0};

	(void)state;
	views_on_quorum(&views, ring_a, true);
	views_on_totem(&views, ring_a, N1 | N2);
	assert_false(due(&views));
	views_on_members(&views, N2, false, false);
	assert_false(due(&views));
	assert_false(views_accepts(&views, 2));
	views_on_members(&views, N1 | N2, true, false);
	tell(&views, N1 | N2, true);
}

/* Lost: at once. Won, or another number of votes: where the marker is in the order of messages. */
static void a_change_of_quorum_in_the_same_ring(void **state)
{
	struct views views = together();
	struct group_view view;

	(void)state;
	assert_int_equal(views_compare(&views, true, 3, &view), VIEWS_SAME);
	views_on_quorum(&views, ring_a, false);
	assert_int_equal(views_compare(&views, false, 3, &view), VIEWS_LOST);
	assert_int_equal(view.members, N1 | N2 | N3);
	assert_false(view.quorate);
	views_tell(&views, &view);
	assert_int_equal(views_compare(&views, false, 3, &view), VIEWS_SAME);
	views_on_quorum(&views, ring_a, true);
	assert_int_equal(views_compare(&views, true, 3, &view), VIEWS_MARKER);
	assert_false(due(&views));
	views_on_marker(&views, 2);
	tell(&views, N1 | N2 | N3, true);
	assert_int_equal(views_compare(&views, true, 5, &view), VIEWS_MARKER);
	views_on_marker(&views, 7); /* of nobody that is a member */
	assert_false(due(&views));
	/* A new ring is on its way: its view will say it. */
	views_on_quorum(&views, ring_b, false);
	assert_int_equal(views_compare(&views, false, 3, &view), VIEWS_SAME);
}

static void node_ids_out_of_range_are_no_members(void **state)
{
	struct views views = together();

	(void)state;
	assert_int_equal(views_bit(0), 0);
	assert_int_equal(views_bit(NODES_MAX + 1), 0);
	assert_int_equal(views_bit(UINT32_MAX), 0);
	assert_int_equal(views_bit(NODES_MAX), UINT64_C(1) << 63);
	assert_false(views_accepts(&views, 0));
	assert_false(views_accepts(&views, 65));
	assert_false(views_accepts(&views, 4));
}

/* The names come from any program on any node. */
static void another_clusters_group_is_known_by_its_name_alone(void **state)
{
	static const char own[] = "watari:11111111-1111-4111-8111-111111111111";
	static const char other[] = "watari:99999999-9999-4999-8999-99999999999f";
	char uuid[UUID_BYTES] = "as before";

	(void)state;
	assert_false(strangers_parse(own, strlen(own), own, uuid));
	assert_false(strangers_parse(other, strlen(other) - 1, own, uuid));
	assert_false(strangers_parse("dlm:controld", 12, own, uuid));
	assert_false(strangers_parse("watari:99999999-9999-4999-8999-99999999999\n", 43, own, uuid));
	assert_false(strangers_parse("", 0, own, uuid));
	assert_string_equal(uuid, "as before");
	assert_true(strangers_parse(other, strlen(other), own, uuid));
	assert_string_equal(uuid, "99999999-9999-4999-8999-99999999999f");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_that_is_cut_off_gets_no_quorate_view),
		cmocka_unit_test(the_quorum_service_may_be_read_first),
		cmocka_unit_test(a_ring_that_quorum_never_named_is_skipped),
		cmocka_unit_test(a_daemons_restart_is_a_new_view_in_the_same_ring),
		cmocka_unit_test(a_join_while_quorum_is_ahead_waits_for_the_ring),
		cmocka_unit_test(members_outside_of_the_ring_are_left_out),
		cmocka_unit_test(nothing_is_told_before_the_own_process_is_in),
		cmocka_unit_test(a_change_of_quorum_in_the_same_ring),
		cmocka_unit_test(node_ids_out_of_range_are_no_members),
		cmocka_unit_test(another_clusters_group_is_known_by_its_name_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
