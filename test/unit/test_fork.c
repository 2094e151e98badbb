/* SPDX-License-Identifier: Apache-2.0
 * Two halves that both went on must never be taken for one history, nor one history for two: the one hides what was
 * lost, the other throws away what was acknowledged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/internal.h"

static struct peer peer(uint64_t term, uint64_t index, uint64_t committed)
{
	return (struct peer){.told = true, .term = term, .index = index, .applied = committed, .committed = committed,
		.digest = committed};
}

static void saw(struct peer *p, uint64_t index, uint64_t nonce)
{
	p->views[p->view_count++] = (struct view_mark){.index = index, .nonce = nonce};
}

static uint32_t best_of(const struct peer *peers, uint32_t count)
{
	struct engine *engine = calloc(1, sizeof(*engine));

	assert_non_null(engine);
	memcpy(engine->peers, peers, count * sizeof(*peers));
	uint32_t best = fork_best(engine);
	free(engine);
	return best;
}

/* Equal term and index say nothing where each half wrote alone. */
static void equal_term_and_index_are_two_histories(void **state)
{
	struct peer a = peer(9, 20, 20), b = peer(9, 20, 20);

	(void)state;
	b.digest++;
	assert_false(fork_holds(&a, &b));
	a.applied = a.digest = 10; /* restarted, so that no digests can be compared */
	assert_true(fork_holds(&a, &b));
	saw(&a, 5, 55), saw(&b, 5, 55);
	saw(&a, 15, 1), saw(&b, 15, 2);
	assert_false(fork_holds(&a, &b));
	assert_false(fork_holds(&b, &a));
	assert_int_equal(fork_index(&a, &b), 14);
	assert_int_equal(best_of((struct peer[]){a, b}, 2), 1);
}

/* The younger term does not make up for what more was committed on the other side. */
static void of_two_halves_the_longer_goes_on(void **state)
{
	struct peer a = peer(30, 20, 18), b = peer(9, 25, 25);

	(void)state;
	saw(&a, 15, 1);
	saw(&b, 15, 2);
	assert_int_equal(best_of((struct peer[]){a, b}, 2), 2);
	assert_int_equal(best_of((struct peer[]){b, a}, 2), 1);
}

/* Somebody made one of three a quorum while the other two lived. */
static void what_more_members_have_goes_on(void **state)
{
	struct peer one = peer(40, 99, 99), two = peer(9, 20, 20), three = peer(9, 18, 15);

	(void)state;
	saw(&one, 12, 1);
	saw(&two, 14, 2);
	saw(&three, 14, 2);
	assert_int_equal(best_of((struct peer[]){one, two, three}, 3), 2);
}

/* Entries behind what is committed go, as ever, and nobody is told of that. */
static void an_uncommitted_tail_is_no_history(void **state)
{
	struct peer old = peer(9, 22, 17), young = peer(12, 20, 20);

	(void)state;
	saw(&old, 15, 1), saw(&old, 18, 7);
	saw(&young, 15, 1), saw(&young, 18, 8);
	assert_true(fork_holds(&young, &old));
	assert_false(fork_holds(&old, &young));
	assert_int_equal(best_of((struct peer[]){old, young}, 2), 2);
}

/* A log that ends before something that a member has committed is never taken, whatever its term. */
static void a_younger_term_does_not_shorten_what_is_committed(void **state)
{
	struct peer longer = peer(9, 20, 20), younger = peer(12, 15, 10);

	(void)state;
	saw(&longer, 5, 1), saw(&younger, 5, 1), saw(&younger, 12, 3), saw(&longer, 12, 3);
	assert_int_equal(best_of((struct peer[]){longer, younger}, 2), 1);
}

/* An empty store, an older program, and a member that was away for long contradict nothing. */
static void what_is_not_known_is_no_fork(void **state)
{
	struct peer whole = peer(9, 200, 200), empty = peer(0, 0, 0), older = peer(8, 100, 100), away = peer(7, 50, 50);

	(void)state;
	saw(&whole, 150, 1);
	saw(&away, 40, 4);
	assert_true(fork_holds(&whole, &empty));
	assert_true(fork_holds(&whole, &older));
	assert_true(fork_holds(&whole, &away));
	assert_int_equal(best_of((struct peer[]){empty, older, away, whole}, 4), 4);
}

static void a_state_that_contradicts_itself_is_dropped(void **state)
{
	struct peer kept = {0};
	struct message message = {.index = 10, .applied = 8, .committed = 9, .view_count = 2,
		.views = {{.index = 3, .nonce = 1}, {.index = 7, .nonce = 2}}};

	(void)state;
	assert_true(fork_peer(&kept, &message));
	assert_int_equal(kept.view_count, 2);
	message.committed = 0; /* an older program says nothing of it */
	assert_true(fork_peer(&kept, &message));
	assert_int_equal(kept.committed, 8);
	message.committed = 11;
	assert_false(fork_peer(&kept, &message));
	message.committed = 7;
	assert_false(fork_peer(&kept, &message));
	message.committed = 9;
	message.views[1].index = 3;
	assert_false(fork_peer(&kept, &message));
	message.views[1].index = 11;
	assert_false(fork_peer(&kept, &message));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_term_and_index_are_two_histories),
		cmocka_unit_test(of_two_halves_the_longer_goes_on),
		cmocka_unit_test(what_more_members_have_goes_on),
		cmocka_unit_test(an_uncommitted_tail_is_no_history),
		cmocka_unit_test(a_younger_term_does_not_shorten_what_is_committed),
		cmocka_unit_test(what_is_not_known_is_no_fork),
		cmocka_unit_test(a_state_that_contradicts_itself_is_dropped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
