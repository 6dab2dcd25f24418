/* Connecting: from connect() to the last `subscribed`, for a few connections at a time. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* The key is RFC 6455's own example: no server may refuse it, and its answer is known. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

bool is_stalled(const struct options *options, uint32_t index) {
    return index < (uint32_t)options->stalled;
}

static void open_connection(struct worker *worker, struct connection *c) {
    c->fd = dial(worker->options, is_stalled(worker->options, c->index));
    if (c->fd < 0) fail(worker, "cannot connect: %s", strerror(errno));
    c->stage = CONNECTING;
    if (c->since == 0) c->since = now_ns();
    worker->opening++;
    watch(worker, c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void send_request(struct worker *worker, struct connection *c) {
    char head[4096];
    const char *token = worker->token_lines[c->index % worker->token_count];
    int length = snprintf(head, sizeof head,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
                          "Sec-WebSocket-Version: 13\r\nAuthorization: Bearer %s\r\n\r\n",
                          worker->options->socketio ? "/socket.io/?EIO=4&transport=websocket" : "/ws",
                          worker->options->port, token);
    if (length >= (int)sizeof head) fail(worker, "a token of more than 3 KB");
    queue(worker, c, head, (size_t)length);
    c->stage = UPGRADING;
    watch(worker, c, EPOLLIN, EPOLL_CTL_MOD);
}

static void settle(struct worker *worker, struct connection *c) {
    c->stage = READY;
    worker->opening--;
    worker->ready++;
    histogram_add(&worker->result->latency, now_ns() - c->since);
    if (is_stalled(worker->options, c->index)) watch(worker, c, 0, EPOLL_CTL_DEL);
}

static void subscribe(struct worker *worker, struct connection *c) {
    const struct options *o = worker->options;
    bool subscribes = c->index < (uint32_t)o->subscribers && o->topics_each > 0;
    if (!subscribes) {
        settle(worker, c);
        return;
    }
    char *text = malloc(64 + (size_t)o->topics_each * 16);
    int length = sprintf(text, "{\"type\":\"subscribe\",\"id\":1,\"data\":{\"topics\":[");
    for (int j = 0; j < o->topics_each; j++) /* 97: neighbours share one topic, not all of them */
        length += sprintf(text + length, "%s\"bench.%04u\"", j ? "," : "",
                          (c->index + (uint32_t)j * 97) % (uint32_t)o->topics);
    sprintf(text + length, "]}}");
    queue_message(worker, c, text);
    free(text);
    c->awaited = (uint32_t)o->topics_each;
    c->stage = SUBSCRIBING;
}

/* The server closed a connection before it was ready: like a client, this one tries again. */
static void retry(struct worker *worker, struct connection *c) {
    hang_up(worker, c);
    worker->opening--;
    if (++worker->result->retries > 100 + 3 * (uint64_t)worker->count)
        fail(worker, "clients cannot connect: %s", worker->refusal);
    open_connection(worker, c);
}

static bool has(const uint8_t *p, size_t n, const char *text) {
    return memmem(p, n, text, strlen(text)) != NULL;
}

/* Handles a text message to a connection that is not ready yet. */
void setup_message(struct worker *worker, struct connection *c, const uint8_t *p, size_t n) {
    if (c->stage == OPENING) { /* Engine.IO's `open`, then Socket.IO's `connect` and its echo */
        if (n >= 1 && p[0] == '0') queue_frame(worker, c, 1, "40", 2);
        if (n >= 2 && p[0] == '4' && p[1] == '0') c->stage = GREETING;
    } else if (c->stage == GREETING && has(p, n, "\"type\":\"welcome\"")) {
        subscribe(worker, c);
    } else if (c->stage == SUBSCRIBING && has(p, n, "\"type\":\"subscribed\"")) {
        if (--c->awaited == 0) settle(worker, c);
    }
}

/* Returns the length of the response's head in bytes, 0 if it is not complete. */
size_t read_response(struct worker *worker, struct connection *c, const uint8_t *p, size_t n) {
    const uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t length = (size_t)(end - p) + 4;
    if (!has(p, 12, " 101")) {
        int line = (int)((const uint8_t *)memchr(p, '\r', length) - p);
        snprintf(worker->refusal, sizeof worker->refusal, "%.*s", line, (const char *)p);
        hang_up(worker, c);
        return length;
    }
    if (!has(p, length, ACCEPT)) fail(worker, "a wrong Sec-WebSocket-Accept");
    c->stage = worker->options->socketio ? OPENING : GREETING;
    return length;
}

static void setup_event(struct worker *worker, struct connection *c, uint32_t events) {
    if (c->stage != CONNECTING) {
        if (!receive(worker, c)) retry(worker, c);
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        retry(worker, c);
    } else {
        send_request(worker, c);
    }
}

void open_everyone(struct worker *worker) {
    struct epoll_event events[256];
    worker->ready = worker->opening = worker->next_to_open = 0;
    while (worker->ready < worker->count) {
        while (worker->next_to_open < worker->count &&
               worker->opening < (uint32_t)worker->options->concurrency)
            open_connection(worker, &worker->connections[worker->next_to_open++]);
        flush(worker);
        int n = epoll_wait(worker->epoll, events, 256, 100);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->stage != READY)
                setup_event(worker, c, events[i].events);
            else if (!receive(worker, c))
                fail(worker, "connection %u was lost while others opened", c->index);
        }
        flush(worker);
    }
}
