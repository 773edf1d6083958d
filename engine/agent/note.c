#include "note.h"

#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"
#include "moonrise/wire/message.h"

#include <stdlib.h>
#include <string.h>

int
note_read(struct conf *out, const struct note *n, const char *datadir, struct err *e)
{
    char *path = path_join(datadir, n->file);
    int rc = conf_read(out, path, e);
    free(path);
    return rc;
}

bool
note_names(const struct conf *c, const struct note *n, const char *id)
{
    const char *named = conf_get(c, n->key);
    return id[0] && named && strcmp(named, id) == 0;
}

void
note_tell(struct message *out, const struct note *n, const char *datadir)
{
    struct conf c = CONF_INIT;
    if (note_read(&c, n, datadir, NULL) == 0 && conf_get(&c, n->key))
        message_set_text(out, n->key, conf_get(&c, n->key));
    conf_done(&c);
}
