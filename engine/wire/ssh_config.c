#include "ssh_link.h"

#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The fastest first: both have their own instructions in the processors of the last ten years. */
#define CONFIG_CIPHERS                                                                             \
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr,"              \
    "chacha20-poly1305@openssh.com"

/* The name may be put into a ProxyCommand, which a shell reads. */
static int
config_check_host(const char *host, struct err *e)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-:%@";
    if (!*host || *host == '-' || host[strspn(host, allowed)] || strchr(host, '@') == host)
        return err_set(e, ERR_ARGUMENT, "\"%s\" is no name of a host", host);
    return 0;
}

/* What others may write could make us run their commands, or trust their hosts. */
static int
config_check_owner(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "%s", path);
    if ((st.st_uid == 0 || st.st_uid == geteuid()) && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0)
        return 0;
    err_set(e, ERR_PERMISSION, "%s belongs to somebody else or can be written by others", path);
    return err_hint(e, "chown it to this user and chmod go-w it, as OpenSSH wants it too");
}

static int
config_directory(char **out, struct err *e)
{
    struct user user;
    const char *other = getenv("MOONRISE_SSH_DIR");
    if (other && *other) {
        *out = mem_strdup(other);
    } else {
        int rc = user_read(&user, e);
        if (rc != 0)
            return rc;
        *out = path_join(user.home, ".ssh");
        user_done(&user);
    }
    static const char *const files[] = {"config", "known_hosts"};
    int rc = config_check_owner(*out, e);
    for (size_t i = 0; rc == 0 && i < sizeof(files) / sizeof(files[0]); i++) {
        char *path = path_join(*out, files[i]);
        rc = config_check_owner(path, e);
        free(path);
    }
    if (rc != 0)
        free(*out);
    return rc;
}

/* After the user's configuration: nothing that it says may print, compress, or accept a host unseen. */
static bool
config_insist(ssh_session s)
{
    const int quiet = SSH_LOG_NOLOG, yes = 1;
    return ssh_options_set(s, SSH_OPTIONS_LOG_VERBOSITY, &quiet) == 0 &&
           ssh_options_set(s, SSH_OPTIONS_STRICTHOSTKEYCHECK, &yes) == 0 &&
           ssh_options_set(s, SSH_OPTIONS_COMPRESSION, "no") == 0 &&
           ssh_options_set(s, SSH_OPTIONS_NODELAY, &yes) == 0;
}

static void
config_silence(int priority, const char *function, const char *text, void *arg)
{
    (void)priority, (void)function, (void)text, (void)arg;
}

/* libssh asks for a passphrase: nobody is there to be asked. */
static int
config_no_passphrase(const char *prompt, char *buf, size_t len, int echo, int verify, void *arg)
{
    (void)prompt, (void)buf, (void)len, (void)echo, (void)verify;
    ((struct ssh_link *)arg)->locked = true;
    return -1;
}

int
ssh_link_configure(struct ssh_link *l, struct err *e)
{
    char *dir;
    int rc = config_check_host(l->host, e);
    if (rc == 0)
        rc = config_directory(&dir, e);
    if (rc != 0)
        return rc;
    ssh_set_log_callback(config_silence);
    ssh_session s = l->session = ssh_new();
    must(s);
    l->callbacks =
        (struct ssh_callbacks_struct){.userdata = l, .auth_function = config_no_passphrase};
    ssh_callbacks_init(&l->callbacks);
    ssh_set_blocking(s, 0);
    /* A cipher of ours first: what the configuration names later replaces it. */
    bool done = ssh_set_callbacks(s, &l->callbacks) == SSH_OK &&
                ssh_options_set(s, SSH_OPTIONS_HOST, l->host) == 0 &&
                ssh_options_set(s, SSH_OPTIONS_SSH_DIR, dir) == 0 &&
                ssh_options_set(s, SSH_OPTIONS_CIPHERS_C_S, CONFIG_CIPHERS) == 0 &&
                ssh_options_set(s, SSH_OPTIONS_CIPHERS_S_C, CONFIG_CIPHERS) == 0 &&
                ssh_options_parse_config(s, NULL) == 0 && config_insist(s);
    free(dir);
    if (done)
        return 0;
    err_set(e, ERR_ARGUMENT, "the ssh configuration cannot be used: %s", ssh_get_error(s));
    return err_hint(e, "see ~/.ssh/config and /etc/ssh/ssh_config for what libssh does not know");
}
