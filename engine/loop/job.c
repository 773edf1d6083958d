#include "moonrise/loop/job.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <pthread.h>
#include <stdlib.h>

struct post {
    struct post *next;
    void *message;
};

struct job {
    struct handle handle;
    struct job_spec spec;
    struct job_self self;
    uv_async_t wake;
    uv_thread_t thread;
    uv_mutex_t lock; /* all that follows */
    struct post *first;
    struct post **last;
    bool finished;
    bool left;   /* by the loop, which did not wait for the thread */
    bool closed; /* `wake`, after that */
};

static void
job_free(struct job *j)
{
    uv_mutex_destroy(&j->lock);
    free(j);
}

/* Of the thread and the loop that left it, the one that is through last frees the job. */
static void
job_free_left(struct job *j)
{
    j->spec.left(j->spec.arg);
    job_free(j);
}

static void
job_thread(void *arg)
{
    struct job *j = arg;
    j->spec.run(&j->self, j->spec.arg);
    uv_mutex_lock(&j->lock);
    j->finished = true;
    bool left = j->left, closed = j->closed;
    /* Under the lock, since a loop that goes away closes the handle. */
    if (!left)
        uv_async_send(&j->wake);
    uv_mutex_unlock(&j->lock);
    if (closed)
        job_free_left(j);
}

void
job_post(struct job_self *self, void *message)
{
    struct job *j = self->job;
    struct post *p = mem_alloc(sizeof(*p));
    *p = (struct post){.message = message};
    uv_mutex_lock(&j->lock);
    *j->last = p;
    j->last = &p->next;
    uv_mutex_unlock(&j->lock);
    uv_async_send(&j->wake);
}

/* Takes what was posted; *finished says whether the thread has nothing more to say. */
static struct post *
job_take(struct job *j, bool *finished)
{
    uv_mutex_lock(&j->lock);
    struct post *posts = j->first;
    j->first = NULL;
    j->last = &j->first;
    *finished = j->finished;
    uv_mutex_unlock(&j->lock);
    return posts;
}

static void
job_deliver(struct job *j, struct post *p)
{
    while (p) {
        struct post *next = p->next;
        if (j->spec.said)
            j->spec.said(j->spec.arg, p->message);
        free(p);
        p = next;
    }
}

static void
job_closed(uv_handle_t *uv)
{
    struct job *j = uv->data;
    uv_mutex_lock(&j->lock);
    bool ours = !j->left || j->finished;
    j->closed = true;
    uv_mutex_unlock(&j->lock);
    if (!ours)
        return;
    if (j->left)
        job_free_left(j);
    else
        job_free(j);
}

static void
job_finish(struct job *j)
{
    bool finished;
    must(uv_thread_join(&j->thread) == 0);
    handle_remove(&j->handle);
    job_deliver(j, job_take(j, &finished));
    uv_close((uv_handle_t *)&j->wake, job_closed);
    if (j->spec.done)
        j->spec.done(j->spec.arg);
}

static void
job_woken(uv_async_t *uv)
{
    struct job *j = uv->data;
    bool finished;
    job_deliver(j, job_take(j, &finished));
    if (finished)
        job_finish(j);
}

static void
job_leave(struct job *j)
{
    uv_mutex_lock(&j->lock);
    bool left = j->left = !j->finished;
    uv_mutex_unlock(&j->lock);
    if (!left) {
        job_finish(j);
        return;
    }
    must(pthread_detach(j->thread) == 0); /* a uv_thread_t is a pthread_t */
    handle_remove(&j->handle);
    uv_close((uv_handle_t *)&j->wake, job_closed);
}

/* The loop goes away under a job: it is told to stop and waited for, unless it may be left, and `done` is
 * still called, since only that frees what the job works on. */
static void
job_drop(struct handle *h)
{
    struct job *j = (struct job *)h;
    job_cancel(j);
    if (j->spec.left)
        job_leave(j);
    else
        job_finish(j);
}

int
job_start(struct job **out, struct loop *l, const struct job_spec *spec, struct err *e)
{
    struct job *j = mem_zalloc(sizeof(*j));
    j->spec = *spec;
    j->self.job = j;
    j->last = &j->first;
    int rc = uv_async_init(&l->uv, &j->wake, job_woken);
    if (rc != 0) {
        free(j);
        return err_sys(e, -rc, "cannot start a job");
    }
    j->wake.data = j;
    must(uv_mutex_init(&j->lock) == 0);
    handle_add(&j->handle, l, job_drop);
    if (spec->left)
        handle_hide(&j->handle);
    *out = j;
    rc = uv_thread_create(&j->thread, job_thread, j);
    if (rc == 0)
        return 0;
    *out = NULL;
    handle_remove(&j->handle);
    uv_close((uv_handle_t *)&j->wake, job_closed);
    return err_sys(e, -rc, "cannot start a thread");
}

void
job_cancel(struct job *j)
{
    atomic_store(&j->self.cancel, true);
}
