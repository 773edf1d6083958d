/*
 * Whether a list holds only what a copy may write. A list comes from the source, which may be another host:
 * that its own walk leaves out what is the target's alone proves nothing here.
 */
#ifndef MOONRISE_PATCH_ADMIT_H
#define MOONRISE_PATCH_ADMIT_H

struct err;
struct patch_list;
struct patch_spec;

/* Refuses, ERR_FORMAT, a sorted list that names anything that patch_walk would not: pg_control, what
 * datadir_classify calls the instance's own or leaves out, a file of a directory whose contents are not
 * copied, a tablespace that the spec has not, or in one of the spec's what is not PostgreSQL's. */
int patch_admit(const struct patch_list *l, const struct patch_spec *spec, struct err *e);

#endif
