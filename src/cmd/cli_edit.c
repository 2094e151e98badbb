/* SPDX-License-Identifier: Apache-2.0
 * An editor on a definition. The editor is started directly, its words split at blanks; no shell sees them. */
#include "cmd/cli_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { EDITOR_WORDS_MAX = 8 };

static int run_editor(struct cli *cli, const char *path)
{
	const char *editor = getenv("VISUAL");
	char *words[EDITOR_WORDS_MAX + 2];
	size_t count = 0;
	char *place = NULL;
	int status;

	if (!editor || !*editor)
		editor = getenv("EDITOR");
	CLEANUP_FREE char *copy = strdup(editor && *editor ? editor : "vi");
	if (!copy)
		return err_set(&cli->err, ERR_SYSTEM, "out of memory");
	for (char *word = strtok_r(copy, " ", &place); word && count < EDITOR_WORDS_MAX;
		word = strtok_r(NULL, " ", &place))
		words[count++] = word;
	if (!count)
		return err_set(&cli->err, ERR_USAGE, "$EDITOR is empty");
	words[count++] = (char *)(uintptr_t)path;
	words[count] = NULL;
	pid_t child = fork();
	if (child < 0)
		return err_errno(&cli->err, errno, "fork");
	if (!child) {
		execvp(words[0], words);
		dprintf(STDERR_FILENO, "watari: %s: %s\n", words[0], strerror(errno));
		_exit(127);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(&cli->err, ERR_CANCELLED, "the editor '%s' failed; nothing was changed", words[0]);
	return 0;
}

static int write_definition(struct cli *cli, const char *path, const json_t *definition)
{
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_errno(&cli->err, errno, "%s", path);
	if (json_dumpfd(definition, fd, JSON_INDENT(2)) < 0 || write(fd, "\n", 1) != 1)
		return err_errno(&cli->err, errno, "write %s", path);
	return 0;
}

static void keep_file(struct cli *cli, const char *path)
{
	size_t used = strlen(cli->hint);

	snprintf(cli->hint + used, sizeof(cli->hint) - used, "%syour text is kept: watari vm edit %.64s --file %s",
		used ? "; " : "", cli->operands[0], path);
}

int edit_in_editor(struct cli *cli, const char *name, json_t *was, const char *done)
{
	CLEANUP_JSON json_t *edited = NULL;
	char dir[] = "/tmp/watari-edit-XXXXXX";
	char path[sizeof(dir) + 96];

	if (!isatty(STDIN_FILENO) && !getenv("VISUAL") && !getenv("EDITOR"))
		return err_set(
			&cli->err, ERR_USAGE, "nothing to change: give options, --file, or a terminal for the editor");
	if (!mkdtemp(dir))
		return err_errno(&cli->err, errno, "%s", dir);
	snprintf(path, sizeof(path), "%s/%.64s.json", dir, name);
	int result = write_definition(cli, path, was);
	if (!result)
		result = run_editor(cli, path);
	bool has_text = !result;
	if (!result)
		result = definition_read(cli, path, &edited);
	if (!result && json_equal(edited, was))
		printf("unchanged\n");
	else if (!result)
		result = definition_edit(cli, was, edited, done);
	if (result && has_text) {
		keep_file(cli, path);
		return result;
	}
	unlink(path);
	rmdir(dir);
	return result;
}
