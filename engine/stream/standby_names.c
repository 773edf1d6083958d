#include "standby_names.h"

#include "moonrise/base/str.h"
#include "moonrise/stream/stream.h"

#include <string.h>
#include <strings.h>

#define NAMES_BREAKS " \t\n\r\f\v,()"

/* The next word from *p on, quotes taken off: "" at the end. FIRST, ANY and numbers count as words, too. */
static bool
next_word(struct str *word, const char **p)
{
    str_clear(word);
    *p += strspn(*p, NAMES_BREAKS);
    if (**p != '"') {
        size_t len = strcspn(*p, NAMES_BREAKS "\"");
        str_append(word, *p, len);
        *p += len;
        return len > 0;
    }
    for ((*p)++; **p; (*p)++) {
        if (**p == '"' && (*p)[1] != '"')
            break;
        *p += **p == '"';
        str_append(word, *p, 1);
    }
    *p += **p == '"';
    return true;
}

bool
standby_names_have(const char *names, const char *application_name)
{
    struct str word = STR_INIT;
    bool found = false;
    while (!found && next_word(&word, &names))
        found = strcmp(word.data, "*") == 0 || strcasecmp(word.data, application_name) == 0;
    str_free(&word);
    return found;
}

bool
stream_is_mirrors_slot(const char *slot)
{
    return strncasecmp(slot, "mr_slot_", 8) == 0;
}

/* By its beginning alone: a server cuts long names. */
bool
stream_is_mirrors_name(const char *application_name)
{
    return strncasecmp(application_name, "mr_", 3) == 0;
}
