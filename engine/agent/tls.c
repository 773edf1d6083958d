/*
 * tls: whether a server of this host can use a certificate, and clients will accept it.
 */
#include "moonrise/base/err.h"
#include "moonrise/conn/certificate.h"
#include "order.h"

int
op_tls(struct order *o, struct err *e)
{
    struct certificate_files files = {.ca = message_text(o->args, "ca", NULL)};
    int64_t left_s = 0;
    int rc = message_need_text(o->args, "cert", &files.cert, e);
    if (rc == 0)
        rc = message_need_text(o->args, "key", &files.key, e);
    if (rc == 0)
        rc = certificate_check(&left_s, &files, e);
    for (size_t i = 0; rc == 0 && i < message_count(o->args, "names"); i++) {
        const char *name = message_text_item(o->args, "names", i);
        rc = certificate_names(files.cert, name ? name : "", e);
    }
    message_set_int(o->result, "left_s", left_s);
    return rc;
}
