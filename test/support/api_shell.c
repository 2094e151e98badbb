/* SPDX-License-Identifier: Apache-2.0
 * api-shell SOCKET: serves the real API of node n1 over a world of three engines (world.h), for tests of the CLI and of
 * other clients. Orders come on stdin, one a line; it ends at the end of stdin.
 *   cut NODE | heal NODE | copy-ms MS | fail-standby NODE TEXT | pass-standby NODE | restart-api */
#include "api/api.h"
#include "support/poll_loop.h"
#include "support/world.h"

#include <string.h>
#include <sys/epoll.h>

struct shell {
	struct loop *loop;
	struct world *world;
	struct api *api;
	struct api_config config;
	bool ended;
};

static void serve(struct shell *shell)
{
	struct err err;

	shell->api = api_new(&shell->config, world_engine(shell->world, 1), shell->loop, &err);
	if (!shell->api) {
		fprintf(stderr, "api-shell: %s\n", err.text);
		exit(1);
	}
}

static void obey(struct shell *shell, char *line)
{
	char word[32] = "", text[128] = "";
	unsigned number = 0;

	line[strcspn(line, "\n")] = '\0';
	sscanf(line, "%31s %u %127[^\n]", word, &number, text);
	bool node = number >= 1 && number <= WORLD_NODES;
	if (!strcmp(word, "cut") && node)
		world_cut(shell->world, number, true);
	else if (!strcmp(word, "heal") && node)
		world_cut(shell->world, number, false);
	else if (!strcmp(word, "copy-ms") && number)
		world_set_copy_ms(shell->world, number);
	else if (!strcmp(word, "fail-standby") && node)
		world_fail_standby(shell->world, number, text);
	else if (!strcmp(word, "pass-standby") && node)
		world_fail_standby(shell->world, number, NULL);
	else if (!strcmp(word, "restart-api")) {
		api_free(shell->api);
		serve(shell);
	} else {
		fprintf(stderr, "api-shell: what is '%s'?\n", line);
		exit(64);
	}
	printf("ok\n");
	fflush(stdout);
}

static void on_order(void *ctx, uint32_t events)
{
	struct shell *shell = ctx;
	char line[256];

	(void)events;
	if (fgets(line, sizeof(line), stdin))
		obey(shell, line);
	else
		shell->ended = true;
}

int main(int argc, char **argv)
{
	struct shell shell = {.loop = poll_loop_new()};
	struct engine_status status = {0};

	if (argc != 2) {
		fprintf(stderr, "usage: api-shell SOCKET\n");
		return 64;
	}
	setvbuf(stdin, NULL, _IONBF, 0); /* what is buffered, poll does not see */
	shell.config = (struct api_config){.socket_path = argv[1], .group = API_GROUP_NONE, .run_dir = "/run/watari"};
	shell.world = world_new(shell.loop);
	serve(&shell);
	loop_io_watch(shell.loop, STDIN_FILENO, EPOLLIN, on_order, &shell);
	for (bool told = false; !shell.ended;) {
		poll_loop_once(shell.loop, 1000);
		engine_get_status(world_engine(shell.world, 1), &status);
		const struct node *last = cluster_node(engine_cluster(world_engine(shell.world, 1)), WORLD_NODES);
		if (!told && status.synced && last->state == NODE_ONLINE) {
			printf("ready\n");
			fflush(stdout);
			told = true;
		}
	}
	api_free(shell.api);
	world_free(shell.world);
	poll_loop_free(shell.loop);
	return 0;
}
