#include "moonrise/wire/ssh.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <stdbool.h>
#include <string.h>

/* Inside single quotes sh ends at ', csh replaces ! by its history, and fish reads backslashes; outside of
 * them a backslash makes each of the three plain everywhere. */
static bool
quote_by_backslash(char c)
{
    return c == '\'' || c == '\\' || c == '!';
}

static void
quote_word(struct str *out, const char *word)
{
    if (!*word)
        str_puts(out, "''");
    while (*word) {
        if (quote_by_backslash(*word)) {
            str_printf(out, "\\%c", *word++);
            continue;
        }
        size_t plain = strcspn(word, "'\\!");
        str_puts(out, "'");
        str_append(out, word, plain);
        str_puts(out, "'");
        word += plain;
    }
}

static bool
quote_is_plain(const char *word)
{
    for (; *word; word++)
        if ((unsigned char)*word < ' ' || *word == 0x7f)
            return false;
    return true;
}

int
ssh_quote(struct str *out, const char *const *argv, struct err *e)
{
    for (size_t i = 0; argv[i]; i++) {
        if (!quote_is_plain(argv[i]))
            return err_set(e, ERR_ARGUMENT, "a word of a remote command has control characters");
        if (i > 0)
            str_puts(out, " ");
        quote_word(out, argv[i]);
    }
    return 0;
}
