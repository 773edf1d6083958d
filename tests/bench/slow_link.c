/*
 * A slow link for benchmarks: forwards TCP connections to a port of this host, with a delay, and at a rate that
 * all connections share, each way for itself.
 *
 *   slow_link PORT TO BYTES_A_SECOND DELAY_MS     listens on 127.0.0.1:PORT until it is killed
 *
 * A byte leaves when the link has carried those before it, and arrives after the delay. What has not left yet is
 * a queue of two delays' worth, as a router has it; beyond that the sender has to wait.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS  64
#define PACKET_BYTES 1460u
#define PACKETS      4096u

/* What is under way in one direction of a connection. */
struct lane {
    int from, to;
    bool ended;                  /* nothing more comes in */
    uint32_t first, count, sent; /* a ring; `sent` of its first packet */
    struct packet {
        int64_t arrives_ns;
        uint32_t len;
        char bytes[PACKET_BYTES];
    } ring[PACKETS];
};

struct way {
    int64_t free_ns; /* when the link has carried what is under way */
};

static double rate;
static int64_t delay_ns;
static struct way ways[2];
static struct lane *lanes[2 * CONNECTIONS];

static int64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool
lane_takes(const struct lane *l, const struct way *w, int64_t now)
{
    return !l->ended && l->count < PACKETS && w->free_ns < now + 2 * delay_ns + 1000000;
}

static void
lane_read(struct lane *l, struct way *w, int64_t now)
{
    struct packet *p = &l->ring[(l->first + l->count) % PACKETS];
    ssize_t n = read(l->from, p->bytes, PACKET_BYTES);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        l->ended = true;
        return;
    }
    w->free_ns = (w->free_ns > now ? w->free_ns : now) + (int64_t)((double)n / rate * 1e9);
    p->len = (uint32_t)n;
    p->arrives_ns = w->free_ns + delay_ns;
    l->count++;
}

/* Delivers what has arrived; false when the connection is over. */
static bool
lane_write(struct lane *l, int64_t now)
{
    while (l->count > 0 && l->ring[l->first].arrives_ns <= now) {
        struct packet *p = &l->ring[l->first];
        ssize_t n = write(l->to, p->bytes + l->sent, p->len - l->sent);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        if (n < 0)
            return false;
        l->sent += (uint32_t)n;
        if (l->sent < p->len)
            return true;
        l->sent = 0;
        l->first = (l->first + 1) % PACKETS;
        l->count--;
    }
    if (l->ended && l->count == 0)
        shutdown(l->to, SHUT_WR);
    return true;
}

static void
lanes_add(int a, int b)
{
    int one = 1;
    for (int i = 0; i < 2 * CONNECTIONS; i += 2) {
        if (lanes[i])
            continue;
        int fds[2] = {a, b};
        for (int k = 0; k < 2; k++) {
            lanes[i + k] = calloc(1, sizeof(struct lane));
            lanes[i + k]->from = fds[k];
            lanes[i + k]->to = fds[1 - k];
            fcntl(fds[k], F_SETFL, O_NONBLOCK);
            setsockopt(fds[k], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        }
        return;
    }
    close(a);
    close(b);
}

static void
lanes_drop(int i)
{
    close(lanes[i]->from);
    close(lanes[i]->to);
    free(lanes[i]);
    free(lanes[i + 1]);
    lanes[i] = lanes[i + 1] = NULL;
}

static int
address(int port, struct sockaddr_in *a)
{
    *a = (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void
turn(struct pollfd *fds, int count)
{
    int64_t now = now_ns(), next = now + 5000000;
    for (int i = 0; i < 2 * CONNECTIONS; i++) {
        const struct lane *l = lanes[i];
        fds[count + i] = (struct pollfd){.fd = -1};
        if (l && lane_takes(l, &ways[i % 2], now))
            fds[count + i] = (struct pollfd){.fd = l->from, .events = POLLIN};
        if (l && l->count && l->ring[l->first].arrives_ns < next)
            next = l->ring[l->first].arrives_ns;
    }
    struct timespec wait = {.tv_nsec = next > now ? next - now : 0};
    ppoll(fds, (nfds_t)(count + 2 * CONNECTIONS), &wait, NULL);
    now = now_ns();
    for (int i = 0; i < 2 * CONNECTIONS; i++) {
        while (lanes[i] && (fds[count + i].revents) && lane_takes(lanes[i], &ways[i % 2], now)) {
            uint32_t before = lanes[i]->count;
            lane_read(lanes[i], &ways[i % 2], now);
            if (lanes[i]->count == before)
                break;
        }
        if (lanes[i] && (!lane_write(lanes[i], now) || (lanes[i]->ended && lanes[i ^ 1]->ended &&
                                                        !lanes[i]->count && !lanes[i ^ 1]->count)))
            lanes_drop(i & ~1);
    }
}

int
main(int argc, char **argv)
{
    struct pollfd fds[1 + 2 * CONNECTIONS];
    struct sockaddr_in here, there;
    if (argc != 5)
        return 2;
    int listener = address(atoi(argv[1]), &here), one = 1;
    rate = atof(argv[3]);
    delay_ns = (int64_t)(atof(argv[4]) * 1e6);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&here, sizeof(here)) != 0 || listen(listener, 64) != 0) {
        perror("slow_link");
        return 1;
    }
    for (;;) {
        fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        turn(fds, 1);
        if (!fds[0].revents)
            continue;
        int a = accept4(listener, NULL, NULL, SOCK_CLOEXEC), b = address(atoi(argv[2]), &there);
        if (connect(b, (struct sockaddr *)&there, sizeof(there)) == 0) {
            lanes_add(a, b);
        } else {
            close(a);
            close(b);
        }
    }
}
