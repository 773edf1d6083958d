#include "ssh_link.h"

#include "moonrise/base/io.h"
#include "moonrise/base/str.h"

#include <stdio.h>
#include <string.h>

#define HOSTKEY_FILE_BYTES (16 << 20)

/* "ED25519 SHA256:...", as OpenSSH shows it. */
static void
hostkey_name(ssh_session s, char *out, size_t size)
{
    ssh_key key = NULL;
    unsigned char *hash = NULL;
    size_t len = 0;
    char *print = NULL;
    const char *type = "";
    if (ssh_get_server_publickey(s, &key) == SSH_OK) {
        type = ssh_key_type_to_char(ssh_key_type(key));
        if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &len) == 0)
            print = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, len);
    }
    snprintf(out, size, "%s %s", type ? type : "", print ? print : "");
    ssh_string_free_char(print);
    ssh_clean_pubkey_hash(&hash);
    SSH_KEY_FREE(key);
}

/* As known_hosts names it: the port only where it is not 22. */
static void
hostkey_entry(ssh_session s, char *out, size_t size)
{
    unsigned port = 22;
    char *name = NULL;
    ssh_options_get(s, SSH_OPTIONS_HOST, &name);
    ssh_options_get_port(s, &port);
    snprintf(out, size, port == 22 || port == 0 ? "%s" : "[%s]:%u", name ? name : "", port);
    ssh_string_free_char(name);
}

/* Whether a line revokes this key of this host. */
static bool
hostkey_revokes(const char *line, const char *entry, ssh_key key)
{
    static const char mark[] = "@revoked";
    struct ssh_knownhosts_entry *found = NULL;
    line += strspn(line, " \t");
    if (strncmp(line, mark, strlen(mark)) != 0)
        return false;
    line += strlen(mark);
    line += strspn(line, " \t");
    bool is = ssh_known_hosts_parse_line(entry, line, &found) == SSH_OK && found &&
              ssh_key_cmp(key, found->publickey, SSH_KEY_CMP_PUBLIC) == 0;
    SSH_KNOWNHOSTS_ENTRY_FREE(found);
    return is;
}

/* libssh skips such lines, so a key that is on record besides would do. */
static bool
hostkey_is_revoked(ssh_session s, enum ssh_options_e which, const char *entry)
{
    char *path = NULL;
    ssh_key key = NULL;
    struct str text = STR_INIT;
    bool revoked = false;
    if (ssh_options_get(s, which, &path) == SSH_OK && ssh_get_server_publickey(s, &key) == SSH_OK &&
        io_read_file(&text, path, HOSTKEY_FILE_BYTES, NULL) == 0)
        for (char *rest = text.data, *line; !revoked && (line = strsep(&rest, "\n"));)
            revoked = hostkey_revokes(line, entry, key);
    str_free(&text);
    SSH_KEY_FREE(key);
    ssh_string_free_char(path);
    return revoked;
}

int
ssh_link_check_host(struct ssh_link *l, struct err *e)
{
    ssh_session s = l->session;
    char key[160], entry[300], *file = NULL;
    enum ssh_known_hosts_e known = ssh_session_is_known_server(s);
    hostkey_name(s, key, sizeof(key));
    hostkey_entry(s, entry, sizeof(entry));
    if (hostkey_is_revoked(s, SSH_OPTIONS_KNOWNHOSTS, entry) ||
        hostkey_is_revoked(s, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, entry))
        return err_set(e, ERR_HOSTKEY, "the host shows a key that is revoked in known_hosts: %s",
                       key);
    if (known == SSH_KNOWN_HOSTS_OK)
        return 0;
    ssh_options_get(s, SSH_OPTIONS_KNOWNHOSTS, &file);
    const char *path = file ? file : "~/.ssh/known_hosts";
    switch (known) {
    case SSH_KNOWN_HOSTS_CHANGED:
        err_set(e, ERR_HOSTKEY, "the host's key is not the one on record in %s: it shows %s", path,
                key);
        err_hint(e,
                 "it was set up anew, or somebody else answers in its place. When that is clear: "
                 "ssh-keygen -f %s -R '%s', then `ssh %s`, and compare the fingerprint",
                 path, entry, l->host);
        break;
    case SSH_KNOWN_HOSTS_OTHER:
        err_set(e, ERR_HOSTKEY, "the host has only a key of another type than on record in %s: %s",
                path, key);
        err_hint(e,
                 "when that is right: ssh-keygen -f %s -R '%s', then `ssh %s`, and compare the "
                 "fingerprint",
                 path, entry, l->host);
        break;
    case SSH_KNOWN_HOSTS_NOT_FOUND:
    case SSH_KNOWN_HOSTS_UNKNOWN:
        err_set(e, ERR_UNKNOWNKEY, "the host's key is unknown: %s is not in %s", key, path);
        err_hint(e,
                 "run `ssh %s` once as this user, compare the fingerprint with that of the host's "
                 "own key (there: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), and accept it",
                 l->host);
        break;
    default:
        err_set(e, ERR_HOSTKEY, "the host's key cannot be compared: %s", ssh_get_error(s));
    }
    ssh_string_free_char(file);
    return e->code;
}
