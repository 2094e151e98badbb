/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/page_server.h"
#include "stream/file.h"
#include "stream/playout.h"
#include "stream/push_order.h"
#include "stream/return_path.h"
#include "stream/sums.h"
#include "stream/sums_task.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	WATCH_MS = 500,
};

struct request {
	uint32_t block;
	uint64_t index;
	uint64_t asked_ns;
};

struct page_server {
	const struct state *state;
	int socket;
	int wake_fd;
	bool eager;
	struct server_events events;
	struct server_counters counters;
	atomic_bool stopped;
	struct sums_task sums_task;
	struct page_reader reader;
	bool have_reader; /* the state is whole: pages may be sent */
	bool early_pong;  /* QEMU had the devices before that */
	bool settled;
	bool finished; /* the final word was said */

	uint8_t *head, *end;
	const uint8_t *out; /* what is being sent: head, end or part */
	size_t out_size;
	struct playout_part part;
	uint64_t part_asked_ns[SERVER_PART_PAGES]; /* of the requests answered by it */
	uint32_t part_asked;

	uint8_t in[8192];
	size_t in_size;
	uint32_t asked_block;			      /* of the last request that named one */
	struct request requests[SERVER_REQUESTS_MAX]; /* a ring */
	size_t request_first, request_count;

	struct push_order order;
	struct hot asked; /* requests of the first moments */
	uint64_t head_ns; /* when what comes before the pages was on its way */
	uint64_t loaded_ns, last_asked_ns;
	uint64_t *sent;	       /* one bit a page of the main block */
	uint64_t left;	       /* not zero, not sent */
	struct fetch *pushing; /* a READY background fetch that is partly sent */
	uint32_t pushing_at;
	unsigned urgent_waiting; /* urgent fetches under way */
	unsigned cold;		 /* fetches to come that need not look into the page cache first */
};

const char *server_phase_name(enum server_phase phase)
{
	switch (phase) {
	case SERVER_SENDING:
		return "sending";
	case SERVER_FILLING:
		return "filling";
	case SERVER_FINISHING:
		return "finishing";
	case SERVER_FILLED:
		return "filled";
	}
	return "?";
}

static bool bit_is_set(const uint64_t *bits, uint64_t at)
{
	return bits[at / 64] >> (at % 64) & 1;
}

static void bit_set(uint64_t *bits, uint64_t at)
{
	bits[at / 64] |= UINT64_C(1) << (at % 64);
}

static uint64_t sum_of(const struct page_server *server, uint64_t index)
{
	return sums_get(server->state->sums, index);
}

/* What goes out */

static bool part_is_empty(const struct page_server *server)
{
	return server->part.size == 0;
}

static void part_add(struct page_server *server, uint32_t block, uint64_t index, const uint8_t *page)
{
	if (part_is_empty(server))
		playout_part_begin(server->state, &server->part);
	playout_part_page(server->state, &server->part, block, index, page);
}

static void main_page_add(struct page_server *server, uint64_t index, const uint8_t *page)
{
	bool is_zero = !sum_of(server, index);

	part_add(server, server->state->image.main_block, index, is_zero ? NULL : page);
	bit_set(server->sent, index);
	push_order_claim(&server->order, index);
	if (!is_zero) {
		server->left--;
		server->counters.sent_pages++;
	}
}

static void answer_add(struct page_server *server, uint64_t index, const uint8_t *page, uint64_t asked_ns)
{
	main_page_add(server, index, page);
	server->part_asked_ns[server->part_asked++] = asked_ns;
	push_order_asked(&server->order, index);
}

/* Straight out of the page cache, in this thread: no other thread needs to be woken. RWF_NOWAIT never waits for a disk.
 */
static bool page_at_hand(const struct page_server *server, uint64_t index, uint8_t *page)
{
	struct iovec piece = {.iov_base = page, .iov_len = PAGE_BYTES};
	ssize_t got = preadv2(server->state->files.ram, &piece, 1, (off_t)(index * PAGE_BYTES), RWF_NOWAIT);

	return got == PAGE_BYTES && page_sum(page) == sum_of(server, index);
}

/* A page of a small block: QEMU has had all of them before it could ask, so this is for a QEMU that asks all the same.
 */
static void small_page_answer(struct page_server *server, const struct request *request)
{
	const struct device_image *image = &server->state->image;
	uint32_t place = image->places[request->block][request->index];

	part_add(server, request->block, request->index, place > 1 ? image->mirror.bytes + place : NULL);
	server->part_asked_ns[server->part_asked++] = request->asked_ns;
}

/* False: it must wait, no slot is free. */
static bool request_answer(struct page_server *server, const struct request *request)
{
	uint8_t page[PAGE_BYTES];

	if (request->block != server->state->image.main_block) {
		small_page_answer(server, request);
		return true;
	}
	if (bit_is_set(server->sent, request->index))
		return true;
	if (!sum_of(server, request->index)) {
		answer_add(server, request->index, NULL, request->asked_ns);
		return true;
	}
	if (page_at_hand(server, request->index, page)) {
		answer_add(server, request->index, page, request->asked_ns);
		return true;
	}
	struct fetch *fetch = page_reader_slot(&server->reader, true);
	if (!fetch)
		return false;
	fetch->index[0] = request->index;
	fetch->count = 1;
	fetch->asked_ns = request->asked_ns;
	page_reader_want(&server->reader, fetch);
	server->urgent_waiting++;
	return true;
}

static void answers_gather(struct page_server *server)
{
	struct fetch *fetch;

	while (server->part_asked < SERVER_PART_PAGES && server->urgent_waiting &&
		(fetch = page_reader_ready(&server->reader, true))) {
		if (!bit_is_set(server->sent, fetch->index[0]))
			answer_add(server, fetch->index[0], fetch->bytes, fetch->asked_ns);
		server->urgent_waiting--;
		page_reader_release(&server->reader, fetch);
	}
	while (server->part_asked < SERVER_PART_PAGES && server->request_count) {
		if (!request_answer(server, &server->requests[server->request_first]))
			break;
		server->request_first = (server->request_first + 1) % SERVER_REQUESTS_MAX;
		server->request_count--;
	}
}

static void push_gather(struct page_server *server)
{
	if (!server->pushing) {
		server->pushing = page_reader_ready(&server->reader, false);
		server->pushing_at = 0;
	}
	struct fetch *fetch = server->pushing;
	for (unsigned pages = 0; fetch && pages < SERVER_PART_PAGES; server->pushing_at++) {
		if (server->pushing_at == fetch->count) {
			page_reader_release(&server->reader, fetch);
			server->pushing = NULL;
			return;
		}
		uint64_t index = fetch->index[server->pushing_at];
		if (bit_is_set(server->sent, index))
			continue;
		main_page_add(server, index, fetch->bytes + (size_t)server->pushing_at * PAGE_BYTES);
		pages++;
	}
}

/* Taking in a page costs QEMU's host as much as sending it: in the guest's first moments that time is the guest's. */
static uint64_t warm_from_ns(const struct page_server *server)
{
	return server->loaded_ns ? server->loaded_ns + SERVER_HOLD_WARM_NS : UINT64_MAX;
}

/* Until when the mass of the pages is held back; 0: it is not. */
static uint64_t hold_until_ns(const struct page_server *server)
{
	uint64_t limit = (server->loaded_ns ? server->loaded_ns : server->head_ns) + SERVER_HOLD_TOTAL_NS;
	uint64_t until = limit;

	if (server->eager)
		return 0;
	if (server->loaded_ns) {
		until = server->loaded_ns + SERVER_HOLD_LOADED_NS;
		if (until < server->last_asked_ns + SERVER_HOLD_ASKED_NS)
			until = server->last_asked_ns + SERVER_HOLD_ASKED_NS;
	}
	until = until < limit ? until : limit;
	return until > clock_mono_ns() ? until : 0;
}

static bool push_next(struct page_server *server, uint64_t *index)
{
	struct push_order *order = &server->order;

	if (push_order_next_hot(order, index) || push_order_next_neighbour(order, index) ||
		(clock_mono_ns() >= warm_from_ns(server) && push_order_next_warm(order, index)))
		return true;
	if (hold_until_ns(server))
		return false;
	if (!server->settled && !server->eager)
		server->events.settled(server->events.ctx);
	server->settled = true;
	push_order_sort(order);
	return push_order_next_far(order, index);
}

/* As page_at_hand, for the pages of a fetch; runs of neighbours are one read. */
static bool fetch_at_hand(const struct page_server *server, struct fetch *fetch)
{
	uint64_t sums[READER_FETCH_PAGES];

	for (uint32_t from = 0, to; from < fetch->count; from = to) {
		for (to = from + 1; to < fetch->count && fetch->index[to] == fetch->index[to - 1] + 1;)
			to++;
		struct iovec piece = {.iov_base = fetch->bytes + (size_t)from * PAGE_BYTES,
			.iov_len = (size_t)(to - from) * PAGE_BYTES};
		ssize_t got = preadv2(
			server->state->files.ram, &piece, 1, (off_t)(fetch->index[from] * PAGE_BYTES), RWF_NOWAIT);
		if (got != (ssize_t)piece.iov_len)
			return false;
		page_sums(piece.iov_base, to - from, sums);
		for (uint32_t i = from; i < to; i++)
			if (sums[i - from] != sum_of(server, fetch->index[i]))
				return false;
	}
	return true;
}

/* Takes the next pages to push: adds them to the part when they are in the page cache, or else hands them to a reader,
 * and the next ones too without looking: where one was not, its neighbours are not. False: nothing left to take. */
static bool push_more(struct page_server *server)
{
	struct fetch *fetch = page_reader_slot(&server->reader, false);
	uint32_t pages = server->cold ? READER_FETCH_PAGES : SERVER_PART_PAGES;
	uint64_t index;

	if (!fetch)
		return false;
	while (fetch->count < pages && push_next(server, &index)) {
		push_order_claim(&server->order, index);
		fetch->index[fetch->count++] = index;
	}
	if (!fetch->count)
		return false;
	if (!server->cold && !fetch_at_hand(server, fetch))
		server->cold = SERVER_COLD_FETCHES;
	if (server->cold) {
		server->cold--;
		page_reader_want(&server->reader, fetch);
		return true;
	}
	for (uint32_t i = 0; i < fetch->count; i++)
		main_page_add(server, fetch->index[i], fetch->bytes + (size_t)i * PAGE_BYTES);
	return true;
}

static int finish(struct page_server *server, struct err *err)
{
	if (playout_end(server->state, server->eager, &server->end, &server->out_size, err))
		return -1;
	server->out = server->end;
	server->counters.phase = SERVER_FINISHING;
	return 0;
}

/* Decides what is sent next; leaves out_size 0 when there is nothing. */
static int out_compose(struct page_server *server, struct err *err)
{
	if (server->counters.phase != SERVER_FILLING || !server->have_reader)
		return 0;
	server->part.size = 0;
	server->part_asked = 0;
	answers_gather(server);
	if (part_is_empty(server))
		push_gather(server);
	/* While it is cold the readers are kept at work; otherwise the next part is all that is needed. */
	while ((part_is_empty(server) || server->cold) && push_more(server))
		;
	if (!part_is_empty(server)) {
		playout_part_end(server->state, &server->part);
		server->out = server->part.bytes;
		server->out_size = server->part.size;
		return 0;
	}
	/* Not before the devices are loaded, however soon all pages are sent: they may still ask for a page of zeros,
	 * and after the end of the stream nobody could answer (QEMU's page thread in turn waits for the devices then).
	 */
	bool may_end = server->eager || server->counters.loaded;
	return may_end && !server->left && !server->request_count && !server->urgent_waiting ? finish(server, err) : 0;
}

static void out_done(struct page_server *server)
{
	for (uint32_t i = 0; i < server->part_asked; i++)
		latency_note(&server->counters.latency, (clock_mono_ns() - server->part_asked_ns[i]) / 1000);
	server->part_asked = 0;
	if (server->counters.phase == SERVER_SENDING) {
		server->head_ns = clock_mono_ns();
		server->counters.phase = SERVER_FILLING;
	}
}

static int hung_up(const struct page_server *server, struct err *err)
{
	return err_set(err, ERR_UNAVAILABLE, "QEMU closed the connection while %s",
		server->counters.loaded ? "pages were still missing" : "it was loading the state");
}

/* Sends as much as the socket takes; *more: it is full. */
static int out_send(struct page_server *server, bool *more, struct err *err)
{
	for (;;) {
		if (!server->out_size && out_compose(server, err))
			return -1;
		if (!server->out_size)
			return 0;
		ssize_t sent = send(server->socket, server->out, server->out_size, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && errno == EAGAIN) {
			*more = true;
			return 0;
		}
		if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
			return hung_up(server, err);
		if (sent < 0)
			return err_errno(err, errno, "sending to QEMU");
		server->out += sent;
		server->out_size -= (size_t)sent;
		server->counters.sent_bytes += (uint64_t)sent;
		if (!server->out_size) {
			out_done(server);
			/* Hear what is wanted before more is pushed. */
			return 0;
		}
	}
}

/* What comes in */

static int block_of(struct page_server *server, const char *name, uint32_t *block, struct err *err)
{
	const struct stream_layout *layout = &server->state->image.layout;

	if (!name) {
		*block = server->asked_block;
		return 0;
	}
	for (uint32_t i = 0; i < layout->count; i++) {
		if (strcmp(layout->blocks[i].name, name))
			continue;
		*block = server->asked_block = i;
		return 0;
	}
	return err_set(err, ERR_PROTOCOL, "QEMU asks for a page of a memory block that the state does not have");
}

/* A page of zeros that is wanted once the guest runs is mostly one that it has just begun to use: another next time. */
static void request_note(struct page_server *server, uint64_t index)
{
	if (!server->loaded_ns || (sum_of(server, index) && clock_mono_ns() - server->loaded_ns < SERVER_NOTE_NS))
		hot_note(&server->asked, index);
}

static int on_pages(void *ctx, const char *name, uint64_t start, uint32_t size, struct err *err)
{
	struct page_server *server = ctx;
	uint32_t block = 0;

	if (block_of(server, name, &block, err))
		return -1;
	uint64_t bytes = server->state->image.layout.blocks[block].bytes;
	if (server->eager || start % PAGE_BYTES || size % PAGE_BYTES || !size || start >= bytes || size > bytes - start)
		return err_set(
			err, ERR_PROTOCOL, "QEMU asks for %" PRIu32 " bytes at %" PRIu64 ": impossible", size, start);
	if (size / PAGE_BYTES > SERVER_REQUESTS_MAX - server->request_count)
		return err_set(err, ERR_PROTOCOL, "QEMU asks for more than %d pages at a time", SERVER_REQUESTS_MAX);
	for (uint64_t at = start; at < start + size; at += PAGE_BYTES) {
		size_t last = (server->request_first + server->request_count++) % SERVER_REQUESTS_MAX;
		server->requests[last] =
			(struct request){.block = block, .index = at >> PAGE_BITS, .asked_ns = clock_mono_ns()};
		server->counters.requests++;
		if (block == server->state->image.main_block)
			request_note(server, at >> PAGE_BITS);
	}
	server->last_asked_ns = clock_mono_ns();
	return 0;
}

static int loaded(struct page_server *server, struct err *err)
{
	if (server->counters.loaded)
		return 0;
	server->early_pong = !server->have_reader;
	if (server->early_pong)
		return 0;
	/* From here on the guest may run, and no page can be given up. */
	if (page_reader_be_patient(&server->reader, err))
		return -1;
	server->loaded_ns = clock_mono_ns();
	server->counters.loaded = true;
	server->events.loaded(server->events.ctx);
	return 0;
}

static int on_pong(void *ctx, uint32_t value, struct err *err)
{
	struct page_server *server = ctx;

	return value == SERVER_PING && server->counters.phase != SERVER_SENDING ? loaded(server, err) : 0;
}

static int on_shut(void *ctx, uint32_t status, struct err *err)
{
	struct page_server *server = ctx;

	if (status)
		return err_set(err, ERR_PROTOCOL, "QEMU could not take the state; its own log says why");
	if (server->counters.phase != SERVER_FINISHING || server->out_size)
		return err_set(err, ERR_PROTOCOL, "QEMU ended before it had everything");
	if (loaded(server, err))
		return -1;
	server->finished = true;
	return 0;
}

static int in_receive(struct page_server *server, struct err *err)
{
	const struct return_sink sink = {.ctx = server, .pages = on_pages, .pong = on_pong, .shut = on_shut};

	for (;;) {
		ssize_t got = recv(server->socket, server->in + server->in_size, sizeof(server->in) - server->in_size,
			MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return 0;
		if (got < 0 && errno != ECONNRESET)
			return err_errno(err, errno, "hearing from QEMU");
		if (got <= 0)
			return server->finished ? 0 : hung_up(server, err);
		server->in_size += (size_t)got;
		ssize_t taken = return_parse(&sink, server->in, server->in_size, err);
		if (taken < 0)
			return -1;
		server->in_size -= (size_t)taken;
		memmove(server->in, server->in + taken, server->in_size);
		if (server->finished)
			return 0;
	}
}

/* Life */

static void on_stall(void *ctx, const char *why)
{
	struct page_server *server = ctx;

	server->counters.stalled = why != NULL;
	server->events.stalled(server->events.ctx, why);
}

static int buffers_init(struct page_server *server, struct err *err)
{
	size_t words = (size_t)(server->state->pages / 64 + 1);

	server->sent = calloc(words, sizeof(*server->sent));
	server->part.bytes = malloc(PLAYOUT_PART_BYTES(SERVER_PART_PAGES));
	if (!server->sent || !server->part.bytes)
		return err_errno(err, ENOMEM, "memory for the page server");
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->wake_fd < 0)
		return err_errno(err, errno, "page server");
	if (playout_head(server->state, server->eager, SERVER_PING, &server->head, &server->out_size, err))
		return -1;
	server->out = server->head;
	return 0;
}

/* The sums hold. */
static int pages_begin(struct page_server *server, struct err *err)
{
	if (push_order_init(&server->order, server->state, server->eager, server->wake_fd, err) ||
		page_reader_init(&server->reader, server->state, server->wake_fd, on_stall, server, err))
		return -1;
	server->have_reader = true;
	server->events.whole(server->events.ctx);
	return server->early_pong ? loaded(server, err) : 0;
}

static int sums_look(struct page_server *server, struct err *err)
{
	if (!sums_task_over(&server->sums_task))
		return 0;
	if (server->sums_task.result) {
		*err = server->sums_task.err;
		return -1;
	}
	return pages_begin(server, err);
}

struct page_server *page_server_new(
	struct state *state, int socket, bool eager, const struct server_events *events, struct err *err)
{
	struct page_server *server = calloc(1, sizeof(*server));
	int send_buffer = SERVER_SEND_BUFFER;

	if (!server) {
		err_errno(err, ENOMEM, "page server");
		return NULL;
	}
	*server = (struct page_server){
		.state = state, .socket = socket, .eager = eager, .events = *events, .wake_fd = -1};
	server->asked_block = state->image.main_block;
	server->left = state->manifest.used_bytes >> PAGE_BITS;
	/* What lies in the socket cannot be overtaken by a page that the guest waits for. */
	if (!eager)
		setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
	bool full;
	/* First of all the head: QEMU has work from its first bytes on. */
	if (buffers_init(server, err) || out_send(server, &full, err) || (state->sums && pages_begin(server, err))) {
		page_server_free(server);
		return NULL;
	}
	if (!state->sums)
		sums_task_begin(&server->sums_task, state, server->wake_fd);
	return server;
}

void page_server_free(struct page_server *server)
{
	if (!server)
		return;
	sums_task_fini(&server->sums_task);
	if (server->have_reader)
		page_reader_fini(&server->reader);
	push_order_fini(&server->order);
	cleanup_fd_(&server->wake_fd);
	free(server->head);
	free(server->end);
	free(server->part.bytes);
	free(server->sent);
	free(server);
}

static int wait_ms(const struct page_server *server)
{
	uint64_t until = server->counters.phase == SERVER_FILLING ? hold_until_ns(server) : 0;
	uint64_t now = clock_mono_ns();
	uint64_t warm = warm_from_ns(server);

	/* What is waited for next, of the two that only time brings. */
	if (until && warm > now && warm < until)
		until = warm;
	if (!until || until >= now + WATCH_MS * UINT64_C(1000000))
		return WATCH_MS;
	return until > now ? (int)((until - now) / 1000000) + 1 : 0;
}

int page_server_run(struct page_server *server, struct err *err)
{
	uint64_t watched_ns = 0;

	while (!server->finished) {
		bool full = false;
		uint64_t count;

		if (server->stopped)
			return err_set(err, ERR_CANCELLED, "given up");
		if (sums_look(server, err) || in_receive(server, err) ||
			(server->have_reader && page_reader_failure(&server->reader, err)))
			return -1;
		size_t before = server->out_size;
		uint64_t sent = server->counters.sent_bytes;
		if (!server->finished && out_send(server, &full, err))
			return -1;
		bool idle = !full && !before && sent == server->counters.sent_bytes;
		if (!full && !idle)
			continue;
		struct pollfd fds[] = {
			{.fd = server->socket, .events = (short)(POLLIN | (full ? POLLOUT : 0))},
			{.fd = server->wake_fd, .events = POLLIN},
		};
		poll(fds, ARRAY_SIZE(fds), wait_ms(server));
		if (fds[1].revents && read(server->wake_fd, &count, sizeof(count)) < 0)
			continue;
		uint64_t now = clock_mono_ns();
		if (server->have_reader && now - watched_ns > WATCH_MS * UINT64_C(1000000)) {
			page_reader_watch(&server->reader);
			watched_ns = now;
		}
	}
	server->counters.phase = SERVER_FILLED;
	return 0;
}

void page_server_stop(struct page_server *server)
{
	uint64_t one = 1;

	server->stopped = true;
	ssize_t woken = write(server->wake_fd, &one, sizeof(one));
	(void)woken;
}

const struct server_counters *page_server_counters(const struct page_server *server)
{
	return &server->counters;
}

void page_server_hot(struct page_server *server, struct hot *hot)
{
	*hot = server->asked;
	hot_join(hot, &server->state->manifest.hot, server->state->pages);
}

uint64_t page_server_retries(const struct page_server *server)
{
	return server->reader.retries;
}
