/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/load.h"
#include "base/weight.h"
#include "stream/file.h"
#include "stream/page_server.h"
#include "stream/sums.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

struct load_params {
	bool eager;
	bool verify_all;
	uint64_t ram_bytes;
	json_t *expect; /* NULL: none */
};

struct load_figures {
#define FIGURE(name) uint64_t name;
	STREAM_LOAD_FIGURES(FIGURE)
#undef FIGURE
};

struct load {
	int socket; /* -1: check */
	int dir_fd, weight_fd;
	struct control *control;
	struct load_params params;
	struct load_figures figures;
	struct room room;
	struct state state;
	bool have_state;
	_Atomic uint64_t verified_pages;
	pthread_t thread;
	bool started;

	pthread_mutex_t lock; /* of what follows */
	atomic_bool cancelled;
	bool loaded;
	struct page_server *server; /* NULL: not yet */
};

static void set_number(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *validated_members(struct load *load)
{
	json_t *members = json_object();
	const struct manifest *manifest = &load->state.manifest;

	json_object_set(members, "facts", load->state.facts);
	set_number(members, "ram_bytes", manifest->ram_bytes);
	set_number(members, "used_bytes", manifest->used_bytes);
	set_number(members, "device_bytes", manifest->device_bytes);
	set_number(members, "streamed_ns", manifest->streamed_ns);
	return members;
}

static void on_whole(void *ctx)
{
	struct load *load = ctx;

	load->figures.validated_ns = clock_real_ns();
	control_post(load->control, "validated", validated_members(load), CONTROL_GOES_ON);
}

/* On the server's thread. A cancel that was accepted before wins: the guest must not be believed loaded after it. */
static void on_loaded(void *ctx)
{
	struct load *load = ctx;

	pthread_mutex_lock(&load->lock);
	load->loaded = !load->cancelled;
	pthread_mutex_unlock(&load->lock);
	if (!load->loaded)
		return;
	load->figures.loaded_ns = clock_real_ns();
	json_t *members = json_object();
	json_object_set_new(members, "filling", json_boolean(!load->params.eager));
	control_post(load->control, "loaded", members, CONTROL_GOES_ON);
}

/* What is left is work for the time in which nobody waits for it. */
static void on_settled(void *ctx)
{
	weight_set(((struct load *)ctx)->weight_fd, 0);
}

static void on_stalled(void *ctx, const char *why)
{
	struct load *load = ctx;
	json_t *members = json_object();

	if (why)
		json_object_set_new(members, "text", json_string(why));
	control_post(load->control, why ? "stalled" : "resumed", members, CONTROL_GOES_ON);
}

static int validate(struct load *load, struct err *err)
{
	const struct load_params *params = &load->params;

	/* In a move the sums are checked while QEMU takes its devices. */
	bool later = load->socket >= 0 && !params->eager && !params->verify_all;
	int (*step)(int, const json_t *, uint64_t, struct state *, struct err *) =
		later ? state_load_devices : state_load;

	if (step(load->dir_fd, params->expect, params->ram_bytes, &load->state, err))
		return -1;
	load->have_state = true;
	if (later)
		load->state.room = &load->room;
	if (params->verify_all && state_verify_ram(&load->state, &load->verified_pages, &load->cancelled, err))
		return -1;
	return 0;
}

static int serve(struct load *load, struct err *err)
{
	const struct server_events events = {
		.ctx = load, .whole = on_whole, .loaded = on_loaded, .settled = on_settled, .stalled = on_stalled};
	struct page_server *server = page_server_new(&load->state, load->socket, load->params.eager, &events, err);

	if (!server)
		return -1;
	pthread_mutex_lock(&load->lock);
	load->server = server;
	bool cancelled = load->cancelled;
	pthread_mutex_unlock(&load->lock);
	if (cancelled)
		return err_set(err, ERR_CANCELLED, "cancelled");
	return page_server_run(server, err);
}

static void post_filled(struct load *load)
{
	const struct server_counters *counters = page_server_counters(load->server);
	struct load_figures *figures = &load->figures;
	json_t *members = json_object();
	json_t *object = json_object();
	struct hot hot;

	figures->filled_ns = clock_real_ns();
	figures->used_bytes = load->state.manifest.used_bytes;
	figures->sent_bytes = counters->sent_bytes;
	figures->sent_pages = counters->sent_pages;
	figures->requests = counters->requests;
	figures->requests_served = counters->latency.count;
	figures->request_us_avg = latency_mean_us(&counters->latency);
	figures->request_us_p99 = latency_percentile_us(&counters->latency, 99);
	figures->request_us_max = counters->latency.max_us;
	figures->read_retries = page_server_retries(load->server);
#define FIGURE(name) set_number(object, #name, figures->name);
	STREAM_LOAD_FIGURES(FIGURE)
#undef FIGURE
	json_object_set_new(members, "figures", object);
	page_server_hot(load->server, &hot);
	json_object_set_new(members, "hot", hot_to_json(&hot));
	control_post(load->control, "filled", members, CONTROL_DONE);
}

static void post_failed(struct load *load, const struct err *err)
{
	json_t *members = json_object();

	if (load->socket >= 0)
		shutdown(load->socket, SHUT_RDWR);
	json_object_set_new(members, "after_loaded", json_boolean(load->loaded));
	control_post_failure(load->control, err, members);
}

static void *load_main(void *arg)
{
	struct load *load = arg;
	struct err err = {0};

	load->figures.started_ns = clock_real_ns();
	if (validate(load, &err)) {
		post_failed(load, &err);
		return NULL;
	}
	if (load->socket < 0) {
		control_post(load->control, "checked", validated_members(load), CONTROL_DONE);
		return NULL;
	}
	if (serve(load, &err))
		post_failed(load, &err);
	else
		post_filled(load);
	return NULL;
}

/* Commands */

static int params_read(struct load *load, const json_t *start, struct err *err)
{
	struct load_params *params = &load->params;
	const char *mode, *verify;
	json_t *expect = json_object_get(start, "expect");

	if (json_get_text(start, "mode", "", &mode, err) || json_get_text(start, "verify", "served", &verify, err) ||
		json_get_u64(start, "ram_bytes", 0, STREAM_BLOCK_BYTES_MAX, &params->ram_bytes, err))
		return -1;
	if (load->socket >= 0 && strcmp(mode, "postcopy") && strcmp(mode, "eager"))
		return err_set(err, ERR_INVALID, "mode: postcopy or eager");
	if (strcmp(verify, "served") && strcmp(verify, "all"))
		return err_set(err, ERR_INVALID, "verify: served or all");
	if (!params->ram_bytes)
		return err_set(err, ERR_INVALID, "ram_bytes: the memory of the waiting guest");
	if (expect && !json_is_object(expect))
		return err_set(err, ERR_INVALID, "expect: an object");
	params->eager = !strcmp(mode, "eager");
	params->verify_all = !strcmp(verify, "all");
	params->expect = json_incref(expect);
	return 0;
}

static int start_cmd(void *ctx, const json_t *start, struct err *err)
{
	struct load *load = ctx;

	if (params_read(load, start, err))
		return -1;
	int why = pthread_create(&load->thread, NULL, load_main, load);
	if (why)
		return err_errno(err, why, "start of the loading thread");
	load->started = true;
	return 0;
}

/* The sums and the order of the pages. */
static int ready_cmd(void *ctx, const json_t *ready, struct err *err)
{
	struct load *load = ctx;
	uint64_t ram_bytes;

	if (json_get_u64(ready, "ram_bytes", 0, STREAM_BLOCK_BYTES_MAX, &ram_bytes, err))
		return -1;
	uint64_t pages = ram_bytes >> PAGE_BITS;
	if (pages && !load->room.bytes)
		room_init(&load->room, sums_bytes(pages) + pages * sizeof(uint32_t));
	return 0;
}

static int stop(struct load *load, bool even_if_loaded, struct err *err)
{
	pthread_mutex_lock(&load->lock);
	bool refused = load->loaded && !even_if_loaded;
	if (!refused) {
		load->cancelled = true;
		if (load->server)
			page_server_stop(load->server);
	}
	pthread_mutex_unlock(&load->lock);
	return refused ? err_set(err, ERR_BUSY, "QEMU has loaded the state: the guest needs the pages that are missing")
		       : 0;
}

static int cancel_cmd(void *ctx, struct err *err)
{
	return stop(ctx, false, err);
}

static int give_up_cmd(void *ctx, struct err *err)
{
	return stop(ctx, true, err);
}

static json_t *progress_cmd(void *ctx)
{
	struct load *load = ctx;
	json_t *progress = json_object();

	pthread_mutex_lock(&load->lock);
	const struct server_counters *counters = load->server ? page_server_counters(load->server) : NULL;
	pthread_mutex_unlock(&load->lock);
	/* The state belongs to the thread until the server exists. */
	if (!counters) {
		json_object_set_new(progress, "phase", json_string("validating"));
		set_number(progress, "pages", load->verified_pages);
		return progress;
	}
	json_object_set_new(progress, "phase", json_string(server_phase_name((enum server_phase)counters->phase)));
	set_number(progress, "pages", counters->sent_pages);
	set_number(progress, "pages_total", load->state.manifest.used_bytes >> PAGE_BITS);
	set_number(progress, "requests", counters->requests);
	set_number(progress, "request_us_avg", latency_mean_us(&counters->latency));
	set_number(progress, "request_us_max", counters->latency.max_us);
	json_object_set_new(progress, "stalled", json_boolean(counters->stalled));
	return progress;
}

struct control_ops load_ops(struct load *load)
{
	return (struct control_ops){
		.verb = load->socket < 0 ? "check" : "load",
		.ctx = load,
		.start = start_cmd,
		.cancel = cancel_cmd,
		.give_up = load->socket < 0 ? NULL : give_up_cmd,
		.ready = load->socket < 0 ? NULL : ready_cmd,
		.progress = progress_cmd,
	};
}

void load_set_control(struct load *load, struct control *control)
{
	load->control = control;
}

struct load *load_new(int socket, int dir_fd, int weight_fd, struct err *err)
{
	struct load *load = calloc(1, sizeof(*load));

	if (!load) {
		err_errno(err, ENOMEM, "load");
		return NULL;
	}
	load->socket = socket;
	load->dir_fd = dir_fd;
	load->weight_fd = weight_fd;
	pthread_mutex_init(&load->lock, NULL);
	return load;
}

void load_free(struct load *load)
{
	if (!load)
		return;
	if (load->started) {
		stop(load, true, NULL);
		pthread_join(load->thread, NULL);
	}
	page_server_free(load->server);
	if (load->have_state)
		state_fini(&load->state);
	room_fini(&load->room);
	json_decref(load->params.expect);
	pthread_mutex_destroy(&load->lock);
	free(load);
}
