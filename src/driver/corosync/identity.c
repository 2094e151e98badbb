/* SPDX-License-Identifier: Apache-2.0 */
#include "driver/corosync/identity.h"

#include <corosync/cmap.h>
#include <stdbool.h>
#include <string.h>

/* Empty where the key is absent. */
static void get_text(cmap_handle_t cmap, const char *key, char *text, size_t size)
{
	char *value = NULL;

	text[0] = 0;
	if (cmap_get_string(cmap, key, &value) == CS_OK && value)
		snprintf(text, size, "%s", value);
	free(value);
}

/* As totemconfig.c puts it together: secauth stands for aes256 and sha256, what is said in particular wins. */
static int check_encryption(cmap_handle_t cmap, struct err *err)
{
	char cipher[32], hash[32], secauth[32], transport[32];

	get_text(cmap, "totem.transport", transport, sizeof(transport));
	get_text(cmap, "totem.crypto_cipher", cipher, sizeof(cipher));
	get_text(cmap, "totem.crypto_hash", hash, sizeof(hash));
	get_text(cmap, "totem.secauth", secauth, sizeof(secauth));
	if (transport[0] && strcmp(transport, "knet") != 0)
		return err_set(err, ERR_INVALID,
			"corosync.conf: transport %s is not encrypted: in section totem, set `transport: knet`",
			transport);
	bool all = !strcmp(secauth, "on");
	if (cipher[0] ? !strcmp(cipher, "none") : !all)
		return err_set(err, ERR_INVALID,
			"corosync.conf: the network between the nodes is not encrypted: in section totem, set "
			"`crypto_cipher: aes256` and `crypto_hash: sha256`, and make a key with corosync-keygen(8)");
	if (hash[0] ? !strcmp(hash, "none") : !all)
		return err_set(err, ERR_INVALID,
			"corosync.conf: the network between the nodes is not authenticated: in section totem, set "
			"`crypto_hash: sha256`");
	return 0;
}

static int read_nodes(cmap_handle_t cmap, struct corosync_identity *identity, struct err *err)
{
	char key[64];
	uint32_t id;

	if (cmap_get_uint32(cmap, "runtime.votequorum.this_node_id", &identity->node) != CS_OK)
		return err_set(err, ERR_INVALID, "corosync.conf: quorum.provider must be corosync_votequorum");
	for (uint32_t position = 0; position < NODES_MAX; position++) {
		snprintf(key, sizeof(key), "nodelist.node.%u.nodeid", position);
		if (cmap_get_uint32(cmap, key, &id) != CS_OK)
			break;
		identity->nodes++;
		if (id < 1 || id > NODES_MAX)
			return err_set(err, ERR_INVALID, "corosync.conf: nodelist: nodeid %u, allowed are 1 to %d", id,
				NODES_MAX);
		if (id != identity->node)
			continue;
		snprintf(key, sizeof(key), "nodelist.node.%u.name", position);
		get_text(cmap, key, identity->name, sizeof(identity->name));
	}
	if (!identity->name[0])
		return err_set(err, ERR_INVALID, "corosync.conf: nodelist: node %u has no name", identity->node);
	return 0;
}

int corosync_identify(struct corosync_identity *identity, struct err *err)
{
	cmap_handle_t cmap;

	*identity = (struct corosync_identity){0};
	if (cmap_initialize(&cmap) != CS_OK)
		return err_set(err, ERR_UNAVAILABLE, "corosync does not answer: is it running? 'journalctl -u corosync' says why not");
	get_text(cmap, "totem.cluster_name", identity->cluster_name, sizeof(identity->cluster_name));
	cmap_get_uint32(cmap, "runtime.config.totem.token", &identity->token_ms);
	int result = check_encryption(cmap, err) < 0 || read_nodes(cmap, identity, err) < 0 ? -1 : 0;
	cmap_finalize(cmap);
	return result;
}
