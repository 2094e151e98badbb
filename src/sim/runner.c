/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/runner.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { JOBS_MAX = 64, FINDINGS_MAX = 256 };

struct finding {
	uint64_t seed;
	uint64_t at_us;
	char text[1024];
	bool ready;
};

/* Shared with the workers. */
struct board {
	uint64_t next;		       /* seeds handed out, from 0 */
	uint64_t done, steps, requests, events, virtual_ms;
	uint64_t current[JOBS_MAX];    /* the seed that a worker is at */
	uint64_t found;
	struct finding findings[FINDINGS_MAX];
};

static void find(struct board *board, uint64_t seed, uint64_t at_us, const char *text)
{
	uint64_t place = __atomic_fetch_add(&board->found, 1, __ATOMIC_SEQ_CST);

	if (place >= FINDINGS_MAX)
		return;
	struct finding *finding = &board->findings[place];
	finding->seed = seed;
	finding->at_us = at_us;
	snprintf(finding->text, sizeof(finding->text), "%s", text);
	__atomic_store_n(&finding->ready, true, __ATOMIC_RELEASE);
}

/* Each event is a walk over all VMs on every node. */
static uint32_t limit_s(const struct runner_options *options)
{
	return options->limit_s ? options->limit_s : 60 + options->random.vms / 4;
}

static void worker(const struct runner_options *options, struct board *board, uint32_t job)
{
	for (;;) {
		uint64_t n = __atomic_fetch_add(&board->next, 1, __ATOMIC_SEQ_CST);
		struct random_result result = {0};
		if (n >= options->seeds)
			return;
		if (options->violations_max && __atomic_load_n(&board->found, __ATOMIC_RELAXED) >= options->violations_max)
			return;
		board->current[job] = options->first_seed + n;
		alarm(limit_s(options)); /* a run without end is a finding too */
		random_run(options->first_seed + n, &options->random, &result);
		alarm(0);
		__atomic_fetch_add(&board->done, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&board->steps, result.steps, __ATOMIC_RELAXED);
		__atomic_fetch_add(&board->requests, result.requests, __ATOMIC_RELAXED);
		__atomic_fetch_add(&board->events, result.index, __ATOMIC_RELAXED);
		__atomic_fetch_add(&board->virtual_ms, result.virtual_ms, __ATOMIC_RELAXED);
		if (result.violation[0])
			find(board, options->first_seed + n, result.at_us, result.violation);
	}
}

static pid_t spawn(const struct runner_options *options, struct board *board, uint32_t job)
{
	fflush(NULL);
	pid_t pid = fork();
	if (!pid) {
		worker(options, board, job);
		_exit(0);
	}
	return pid;
}

static void report(const struct runner_options *options, const struct board *board, uint64_t *told, FILE *out)
{
	char nodes[32] = "", vms[32] = "", duration[48] = "";

	if (options->random.nodes)
		snprintf(nodes, sizeof(nodes), " --nodes %" PRIu32, options->random.nodes);
	if (options->random.vms)
		snprintf(vms, sizeof(vms), " --vms %" PRIu32, options->random.vms);
	if (options->random.duration_ms)
		snprintf(duration, sizeof(duration), " --duration %" PRIu64, options->random.duration_ms);
	while (*told < board->found && *told < FINDINGS_MAX) {
		const struct finding *finding = &board->findings[*told];
		if (!__atomic_load_n(&finding->ready, __ATOMIC_ACQUIRE))
			return;
		fprintf(out,
			"seed %" PRIu64 ": [%6" PRIu64 "] %s\n"
			"  replay: watari-sim random --seed %" PRIu64 "%s%s%s%s --trace\n",
			finding->seed, finding->at_us / 1000, finding->text, finding->seed, nodes, vms,
			options->random.witness ? " --witness" : "", duration);
		fflush(out);
		(*told)++;
	}
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A worker's end: by itself, or by the seed that it was at. */
static bool worker_ended(struct board *board, uint32_t job, int status)
{
	char text[128];

	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return false;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(text, sizeof(text), "the run did not end");
	else
		snprintf(text, sizeof(text), "the process died: %s",
			WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "exit status");
	find(board, board->current[job], 0, text);
	__atomic_fetch_add(&board->done, 1, __ATOMIC_RELAXED);
	return true;
}

static int watch(const struct runner_options *options, struct board *board, pid_t *pids, uint32_t jobs, FILE *out,
	struct err *err)
{
	uint32_t alive = jobs;
	uint64_t told = 0;

	while (alive) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno != EINTR)
			return err_errno(err, errno, "wait for a worker");
		for (uint32_t job = 0; job < jobs && pid > 0; job++) {
			if (pids[job] != pid)
				continue;
			alive--;
			pids[job] = 0;
			if (worker_ended(board, job, status) && (pids[job] = spawn(options, board, job)) > 0)
				alive++;
		}
		report(options, board, &told, out);
	}
	return 0;
}

int runner_run(const struct runner_options *options, FILE *out, struct runner_totals *totals, struct err *err)
{
	uint32_t jobs = options->jobs < 1 ? 1 : options->jobs > JOBS_MAX ? JOBS_MAX : options->jobs;
	pid_t pids[JOBS_MAX];
	double start = now_s();
	int result = 0;

	struct board *board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		return err_errno(err, errno, "shared memory for the workers");
	for (uint32_t job = 0; job < jobs; job++) {
		pids[job] = spawn(options, board, job);
		if (pids[job] < 0) {
			result = err_errno(err, errno, "fork");
			jobs = job;
		}
	}
	if (watch(options, board, pids, jobs, out, err) < 0)
		result = -1;
	*totals = (struct runner_totals){.seeds = board->done, .violations = board->found, .steps = board->steps,
		.requests = board->requests, .events = board->events, .virtual_ms = board->virtual_ms,
		.seconds = now_s() - start};
	munmap(board, sizeof(*board));
	return result;
}
