/* SPDX-License-Identifier: Apache-2.0
 * watari-sim: the product's own core and engine in a simulated cluster. Random runs and scenario folders. */
#include "sim/runner.h"
#include "sim/scenario.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"watari-sim: the product's core and engine in a simulated cluster, with checkers that watch from outside\n"
	"\n"
	"  watari-sim random [--seeds N] [--seed S] [--nodes N] [--vms N] [--witness] [--duration MS] [--jobs J] [--keep-going] "
	"[--json]\n"
	"      Runs N seeds (1) from S (1) on. A violation is printed with the command that replays it; the first one\n"
	"      ends the campaign, unless --keep-going. --json: a line with seeds, violations, seeds_per_second.\n"
	"      --vms: so many VMs run since before, out of a snapshot in each node's store. With 8,000 on 64 nodes a job\n"
	"      takes about 4 GB and a seed minutes. --witness: one more vote, a corosync-qdevice's, that is lost too.\n"
	"  watari-sim random --seed S --trace\n"
	"      Runs one seed and prints all that happens in it.\n"
	"  watari-sim run [--update] [--trace] DIR...\n"
	"      Plays scenario folders (README, cluster, script, expected). --update: writes what came of it to "
	"'expected'.\n"
	"\n"
	"Examples:\n"
	"  watari-sim random --seeds 10000\n"
	"  watari-sim random --seed 4711 --trace | less\n"
	"  watari-sim random --nodes 64 --vms 8000 --seeds 3\n"
	"  watari-sim random --nodes 2 --witness --seeds 1000\n"
	"  watari-sim run test/scenario/*\n"
	"\n"
	"Exit status: 0 no violation, 1 a violation, 64 wrong usage.\n";

struct options {
	struct runner_options runner;
	bool trace, json, keep_going;
};

static void print_line(void *ctx, uint64_t now_us, const char *line)
{
	(void)ctx;
	printf("[%6" PRIu64 "] %s\n", now_us / 1000, line);
}

static int take_number(const char *name, const char *text, uint64_t max, uint64_t *value, struct err *err)
{
	char *end;

	if (!text)
		return err_set(err, ERR_USAGE, "%s needs a number", name);
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	if (errno || *end || !*text || *text == '-' || number > max)
		return err_set(err, ERR_USAGE, "%s '%s': a number up to %" PRIu64, name, text, max);
	*value = number;
	return 0;
}

static int parse(int argc, char **argv, struct options *options, struct err *err)
{
	uint64_t nodes = 0, vms = 0, jobs = 1;
	const struct {
		const char *name;
		uint64_t max;
		uint64_t *value;
	} numbers[] = {
		{"--seeds", UINT64_MAX, &options->runner.seeds},
		{"--seed", UINT64_MAX, &options->runner.first_seed},
		{"--nodes", NODES_MAX, &nodes},
		{"--vms", VMS_MAX - SIM_VMS_DEFAULT, &vms},
		{"--duration", 1000 * 1000 * 1000, &options->runner.random.duration_ms},
		{"--jobs", 64, &jobs},
	};
	const struct {
		const char *name;
		bool *value;
	} flags[] = {{"--trace", &options->trace}, {"--json", &options->json}, {"--keep-going", &options->keep_going},
		{"--witness", &options->runner.random.witness}};

	options->runner.seeds = options->runner.first_seed = 1;
	for (int i = 0; i < argc; i++) {
		bool known = false;
		for (size_t n = 0; n < ARRAY_SIZE(numbers) && !known; n++) {
			if (strcmp(argv[i], numbers[n].name) != 0)
				continue;
			if (take_number(argv[i], argv[i + 1], numbers[n].max, numbers[n].value, err) < 0)
				return -1;
			known = true;
			i++;
		}
		for (size_t n = 0; n < ARRAY_SIZE(flags) && !known; n++)
			if (!strcmp(argv[i], flags[n].name))
				known = *flags[n].value = true;
		if (!known)
			return err_set(err, ERR_USAGE, "'%s': see watari-sim --help", argv[i]);
	}
	options->runner.random.nodes = (uint32_t)nodes;
	options->runner.random.vms = (uint32_t)vms;
	options->runner.jobs = (uint32_t)jobs;
	options->runner.violations_max = options->keep_going ? 0 : 1;
	return 0;
}

static int trace_one(const struct options *options)
{
	struct random_options random = options->runner.random;
	struct random_result result = {0};

	random.trace = print_line;
	setvbuf(stdout, NULL, _IOLBF, 0); /* an assertion must not swallow the lines before it */
	random_run(options->runner.first_seed, &random, &result);
	printf("seed %" PRIu64 ": %s\n", options->runner.first_seed, result.violation[0] ? result.violation : "no violation");
	return result.violation[0] ? 1 : 0;
}

static int verb_random(int argc, char **argv, struct err *err)
{
	struct options options = {0};
	struct runner_totals totals;

	if (parse(argc, argv, &options, err) < 0)
		return -1;
	if (options.trace)
		return trace_one(&options);
	if (runner_run(&options.runner, options.json ? stderr : stdout, &totals, err) < 0)
		return -1;
	double rate = totals.seconds > 0 ? (double)totals.seeds / totals.seconds : 0;
	if (options.json)
		printf("{\"seeds\": %" PRIu64 ", \"violations\": %" PRIu64 ", \"seeds_per_second\": %.1f, \"seconds\": %.1f, "
		       "\"events\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"steps\": %" PRIu64 ", \"virtual_hours\": %.1f}\n",
			totals.seeds, totals.violations, rate, totals.seconds, totals.events, totals.requests, totals.steps,
			(double)totals.virtual_ms / 3.6e6);
	else
		printf("%" PRIu64 " seeds, %" PRIu64 " violations, %.1f seeds/s; %" PRIu64 " events committed, %" PRIu64
		       " requests, %.1f virtual hours\n",
			totals.seeds, totals.violations, rate, totals.events, totals.requests,
			(double)totals.virtual_ms / 3.6e6);
	return totals.violations ? 1 : 0;
}

static int verb_run(int argc, char **argv, struct err *err)
{
	bool update = false, trace = false;
	int played = 0, failed = 0;

	for (int i = 0; i < argc; i++) {
		struct err why = {0};
		if (!strcmp(argv[i], "--update") || !strcmp(argv[i], "--trace")) {
			*(argv[i][2] == 'u' ? &update : &trace) = true;
			continue;
		}
		played++;
		if (scenario_run(argv[i], update, trace, &why) < 0) {
			failed++;
			printf("FAILED %s\n", why.text);
		}
	}
	if (!played)
		return err_set(err, ERR_USAGE, "run: which folders? See watari-sim --help");
	printf("%d scenarios, %d failed\n", played, failed);
	return failed ? 1 : 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv, struct err *err); /* the exit status, or -1 with err */
} verbs[] = {
	{"random", verb_random},
	{"run", verb_run},
};

int main(int argc, char **argv)
{
	struct err err = {0};

	/* An engine's tables are large and mostly untouched: always fresh pages from the kernel, which are zero, and never
	 * a part of the heap that calloc would have to clear. It is five times faster. */
	mallopt(M_MMAP_THRESHOLD, 256 * 1024);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		fputs(help, argc < 2 ? stderr : stdout);
		return argc < 2 ? 64 : 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name) != 0)
			continue;
		int status = verbs[i].run(argc - 2, argv + 2, &err);
		if (status >= 0)
			return status;
		fprintf(stderr, "watari-sim: %s\n", err.text);
		return err_info(err.code)->exit_status;
	}
	fprintf(stderr, "watari-sim: no verb '%s': see watari-sim --help\n", argv[1]);
	return 64;
}
