/* Sockets, frames, and the messages of the two dialects. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* RFC 6455 requires clients to mask. A constant key is enough: there is nothing to protect here. */
static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

static const char SOCKETIO_EVENT[] = "42[\"message\",";

int dial(const struct options *options, bool stalled) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    /* A stalled client is one on a network: packets of 1,500 bytes. With the loopback's of 64 KB
     * the server's kernel would buffer 2.5 MB for it before the server noticed anything. */
    int on = 1, small = 4096, segment = 1448;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (stalled) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    /* A dropped client sends a reset and leaves no TIME_WAIT behind, so that ports do not run out. */
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)options->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK), /* no other address, ever */
    };
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

void watch(struct worker *worker, struct connection *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(worker->epoll, operation, c->fd, &event) < 0)
        fail(worker, "epoll_ctl: %s", strerror(errno));
}

void hang_up(struct worker *worker, struct connection *c) {
    (void)worker;
    if (c->fd >= 0) close(c->fd);
    free(c->kept);
    free(c->out);
    *c = (struct connection){.fd = -1, .index = c->index, .since = c->since, .dirty = c->dirty};
}

/* Adds a frame to those that the connection has to send; flush() sends them. */
void queue(struct worker *worker, struct connection *c, const void *bytes, size_t length) {
    if (c->out_length + length > c->out_size) {
        c->out_size = (uint32_t)(c->out_length + length) * 2;
        c->out = realloc(c->out, c->out_size);
    }
    memcpy(c->out + c->out_length, bytes, length);
    c->out_length += (uint32_t)length;
    if (!c->dirty) {
        c->dirty = true;
        worker->dirty[worker->dirty_count++] = c;
    }
}

void flush(struct worker *worker) {
    for (uint32_t i = 0; i < worker->dirty_count; i++) {
        struct connection *c = worker->dirty[i];
        c->dirty = false;
        if (c->fd < 0 || c->out_length == 0) continue;
        ssize_t sent = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) continue; /* the read that follows notices that it is gone */
            sent = 0;
        }
        c->out_length -= (uint32_t)sent;
        if (c->out_length > 0) memmove(c->out, c->out + sent, c->out_length);
        if (c->blocked != (c->out_length > 0)) {
            c->blocked = c->out_length > 0;
            watch(worker, c, EPOLLIN | (c->blocked ? EPOLLOUT : 0), EPOLL_CTL_MOD);
        }
    }
    worker->dirty_count = 0;
}

/* Reads what has come, passes it to read_frames(), and keeps the beginning of an unfinished frame. */
bool receive(struct worker *worker, struct connection *c) {
    for (;;) {
        size_t kept = c->kept_length;
        if (kept) memcpy(worker->buffer, c->kept, kept);
        ssize_t got = recv(c->fd, worker->buffer + kept, RECEIVE_BUFFER, 0);
        if (got <= 0) return got < 0 && errno == EAGAIN;
        worker->now = now_ns();
        size_t length = kept + (size_t)got;
        size_t read = read_frames(worker, c, worker->buffer, length);
        if (c->fd < 0) return false;
        c->kept_length = (uint32_t)(length - read);
        if (c->kept_length > RECEIVE_BUFFER) fail(worker, "a frame larger than the buffer");
        if (c->kept_length) {
            c->kept = realloc(c->kept, c->kept_length);
            memcpy(c->kept, worker->buffer + read, c->kept_length);
        }
        if (got < RECEIVE_BUFFER) return true; /* level-triggered: no need to ask for EAGAIN */
    }
}

static size_t write_head(uint8_t *head, int opcode, size_t length) {
    size_t at = 2;
    head[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        head[1] = (uint8_t)(0x80 | length);
    } else if (length < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (uint8_t)(length >> 8);
        head[3] = (uint8_t)length;
        at = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
        at = 10;
    }
    memcpy(head + at, MASK, 4);
    return at + 4;
}

void queue_frame(struct worker *worker, struct connection *c, int opcode, const void *p, size_t n) {
    uint8_t head[16], *masked = malloc(n + 1);
    for (size_t i = 0; i < n; i++) masked[i] = ((const uint8_t *)p)[i] ^ MASK[i & 3];
    queue(worker, c, head, write_head(head, opcode, n));
    queue(worker, c, masked, n);
    free(masked);
}

void queue_message(struct worker *worker, struct connection *c, const char *envelope) {
    if (!worker->options->socketio) {
        queue_frame(worker, c, 1, envelope, strlen(envelope));
        return;
    }
    size_t length = strlen(envelope) + sizeof SOCKETIO_EVENT + 1;
    char *event = malloc(length + 1);
    int written = snprintf(event, length + 1, "%s%s]", SOCKETIO_EVENT, envelope);
    queue_frame(worker, c, 1, event, (size_t)written);
    free(event);
}

/* Makes a publication (or ping) with `options->payload` bytes of `data`, the slot's number in it. */
struct template make_template(const struct options *options, uint32_t topic) {
    char head[160];
    int length = 0;
    if (options->socketio) length += sprintf(head, "%s", SOCKETIO_EVENT);
    if (options->ping)
        length += sprintf(head + length, "{\"type\":\"ping\",\"data\":{\"n\":");
    else
        length += sprintf(head + length,
                          "{\"type\":\"data\",\"topic\":\"bench.%04u\",\"data\":{\"n\":", topic);
    static const char between[] = ",\"text\":\"", tail[] = "\"}}";
    size_t envelope = 5 + DIGITS + sizeof between - 1 + 2; /* `{"n":` digits `,"text":"` `"}` */
    size_t text = (size_t)options->payload - envelope;
    size_t size = (size_t)length + DIGITS + sizeof between - 1 + text + sizeof tail - 1 +
                  (options->socketio ? 1 : 0);
    struct template made = {.frame = malloc(size + 16)};
    size_t start = write_head(made.frame, 1, size);
    uint8_t *at = made.frame + start;
    made.payload_at = (uint32_t)start;
    made.digits_at = (uint32_t)(start + (size_t)length);
    made.length = (uint32_t)(start + size);
    at = (uint8_t *)memcpy(at, head, (size_t)length) + length;
    at = (uint8_t *)memcpy(at, "10000000", DIGITS) + DIGITS;
    at = (uint8_t *)memcpy(at, between, sizeof between - 1) + sizeof between - 1;
    for (size_t i = 0; i < text; i++) *at++ = (uint8_t)("Lorem ipsum dolor "[i % 18]);
    at = (uint8_t *)memcpy(at, tail, sizeof tail - 1) + sizeof tail - 1;
    if (options->socketio) *at++ = ']';
    for (size_t i = 0; i < size; i++) made.frame[start + i] ^= MASK[i & 3];
    return made;
}
