/* SPDX-License-Identifier: Apache-2.0
 * A forecast for the API: a copy of the committed state that is worked on elsewhere than on the loop. */
#include "core/forecast.h"
#include "engine/internal.h"
#include "engine/service.h"

#include <assert.h>

struct engine_forecast {
	struct cluster from;
	struct forecast_work work;
	struct forecast result;
	uint32_t quorum_needs;
};

struct engine_forecast *engine_forecast_new(const struct engine *engine)
{
	/* Large tables of which few pages are ever touched. */
	struct engine_forecast *forecast = calloc(1, sizeof(*forecast));
	uint32_t votes = engine->view.expected_votes;

	assert(forecast);
	cluster_copy(&forecast->from, engine->cluster);
	/* Of two nodes one may go on alone (sync.c). */
	forecast->quorum_needs = votes == 2 ? 1 : votes / 2 + 1;
	return forecast;
}

void engine_forecast_free(struct engine_forecast *forecast)
{
	free(forecast);
}

const struct cluster *engine_forecast_cluster(const struct engine_forecast *forecast)
{
	return &forecast->from;
}

const struct forecast *engine_forecast_run(struct engine_forecast *forecast, uint64_t failed)
{
	core_forecast(&forecast->from, failed, false, &forecast->work, &forecast->result);
	return &forecast->result;
}

uint32_t engine_forecast_quorum_needs(const struct engine_forecast *forecast)
{
	return forecast->quorum_needs;
}

void engine_forecast_survival(struct engine_forecast *forecast, struct forecast_survival *survival)
{
	core_survival(&forecast->from, forecast->quorum_needs, &forecast->work, &forecast->result, survival);
}

void engine_place_each(const struct engine *engine, const struct vm *vm, engine_place_fn *fn, void *ctx)
{
	CLEANUP_FREE struct core_plan *plan = calloc(1, sizeof(*plan));
	char text[REASON_BYTES];

	assert(plan);
	for (uint32_t id = 1; id <= NODES_MAX; id++) {
		if (!cluster_node(engine->cluster, id)->id)
			continue;
		bool fits = core_place_explain(
			engine->cluster, plan, (uint32_t)(vm - engine->cluster->vms), id, text);
		fn(ctx, id, fits, text);
	}
}
