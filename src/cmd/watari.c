/* SPDX-License-Identifier: Apache-2.0
 * watari: the command line of the cluster. */
#include "cmd/cli.h"

#include <locale.h>
#include <string.h>

static int fail(const struct cli *cli)
{
	const struct err_info *info = err_info(cli->err.code);

	if (cli->json) {
		CLEANUP_JSON json_t *object = json_pack("{s:{s:s, s:i, s:s, s:s, s:s}}", "error", "code", info->name,
			"exit", info->exit_status, "exit_name", info->exit_name, "message", cli->err.text, "hint",
			cli->hint);
		if (object) {
			json_dumpf(object, stderr, JSON_INDENT(2));
			fputc('\n', stderr);
			return info->exit_status;
		}
	}
	fprintf(stderr, "watari: %s\n", cli->err.text);
	if (cli->hint[0])
		fprintf(stderr, "  %s\n", cli->hint);
	return info->exit_status;
}

static int help(const struct cli *cli)
{
	if (cli->verb)
		help_verb(stdout, cli->verb);
	else if (cli->operands[0])
		help_noun(stdout, cli->operands[0]);
	else
		help_program(stdout);
	return 0;
}

/* For the build and the shell, not for people: man page source and completion. */
static bool hidden(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "__complete")) {
		cli_complete(argc - 2, argv + 2);
		return true;
	}
	if (argc > 1 && !strcmp(argv[1], "__man")) {
		const struct noun *noun = NULL;
		for (size_t i = 0; argc > 2 && i < cli_noun_count; i++)
			if (!strcmp(cli_nouns[i].name, argv[2]))
				noun = &cli_nouns[i];
		help_man(stdout, noun);
		return true;
	}
	return false;
}

/* Where the words could not be parsed to their end: a script that asked for JSON gets its errors as JSON all the same. */
static bool asks_for_json(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		bool next = !strcmp(argv[i], "-o") || !strcmp(argv[i], "--output");
		if (!strcmp(argv[i], "-ojson") || !strcmp(argv[i], "--output=json") ||
			(next && i + 1 < argc && !strcmp(argv[i + 1], "json")))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	struct cli cli = {.client.fd = -1};
	const char *no_color = getenv("NO_COLOR"); /* no-color.org: set and not empty */

	setlocale(LC_ALL, "");
	if (hidden(argc, argv))
		return 0;
	if (argc == 2 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version"))) {
		printf("watari %s\n", WATARI_VERSION);
		return 0;
	}
	cli.color = isatty(STDOUT_FILENO) && !(no_color && *no_color);
	int result = cli_parse(&cli, argc - 1, argv + 1);
	const char *output = cli_option(&cli, "output");
	cli.json = result < 0 ? asks_for_json(argc, argv) : output && !strcmp(output, "json");
	cli.quiet = cli_flag(&cli, "quiet");
	cli.progress = isatty(STDERR_FILENO) && !cli.quiet;
	if (result < 0)
		return fail(&cli);
	if (cli.help || !cli.verb) {
		help(&cli);
		return cli.help ? 0 : err_info(ERR_USAGE)->exit_status;
	}
	result = cli.verb->run(&cli);
	api_client_close(&cli.client);
	if (fflush(stdout) == EOF && !result) {
		err_set(&cli.err, ERR_IO, "writing to stdout failed");
		result = -1;
	}
	return result < 0 ? fail(&cli) : 0;
}
