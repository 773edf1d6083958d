#include "bind.h"
#include "runtime.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/timer.h"

#include <stdlib.h>

struct sleep {
    struct wait wait;
    struct timer *timer;
};

static void
sleep_free(struct sleep *s)
{
    timer_free(s->timer);
    free(s);
}

static bool
sleep_cancel(struct wait *w, bool force)
{
    (void)force;
    sleep_free((struct sleep *)w);
    return true;
}

static void
sleep_over(void *arg)
{
    struct sleep *s = arg;
    wait_end(&s->wait, NULL, NULL);
    sleep_free(s);
}

/* mr.sleep(ms) -> true, or nil, err when cancelled */
int
sleep_for(lua_State *L)
{
    luaL_checknumber(L, 1);
    int64_t ms = arg_ms(L, 1, 0);
    struct task *t;
    int rc = task_enter(L, "sleep", &t);
    if (rc)
        return rc;
    struct sleep *s = mem_zalloc(sizeof(*s));
    s->wait.cancel = sleep_cancel;
    s->wait.what = "the time to pass";
    timer_start(&s->timer, t->rt->loop, ms, sleep_over, s);
    return task_wait(L, t, &s->wait, -1, 0);
}
