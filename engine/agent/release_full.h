/*
 * Releasing a primary whose connections are all taken.
 *
 * When a mirror is lost each commit waits for it in a backend of its own, until no connection is left for
 * who would release them. Job threads only.
 */
#ifndef AGENT_RELEASE_FULL_H
#define AGENT_RELEASE_FULL_H

struct err;
struct order;

/* Has the postmaster reread an empty synchronous_standby_names from postgresql.auto.conf. That it was heard,
 * and that nothing which an earlier order has on its way undoes it, is only known once a session is to be had.
 * ERR_REFUSED for a standby. */
int release_full(const struct order *o, struct err *e);

#endif
