/* The limit: the time that the kernel alone takes for a fan-out or an echo.
 *
 * One epoll loop makes only the system calls that the work needs: one recv() for what came, and one
 * send() per subscriber and topic for everything published in one turn of the loop. It parses no
 * JSON (topics are found by their place in the load generator's messages), its timestamp is a
 * constant, it checks no token and keeps no statistics. No server can be faster, except by chance;
 * the comparison shows how near a server comes.
 *
 * cc -O2 -o limit limit.c && ./limit PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TOPICS = 10000,
    CHUNK = 1 << 18,
    MOST_OWED = 8 << 20,
    READY = 16384, /* events of one turn: all that are ready, so that a turn joins all it can */
};

struct bytes {
    uint8_t *at;
    size_t length, size;
};

struct connection {
    int fd;
    int upgraded, blocked;
    struct bytes in;   /* an unfinished frame or head */
    struct bytes owed; /* bytes for which the kernel's buffer had no room */
};

struct topic {
    struct connection **subscribers;
    uint32_t count, size;
    struct bytes tick; /* frames published to it in this turn of the loop */
};

static struct topic topics[TOPICS];
static uint32_t spoken[TOPICS], spoken_count;
static int epoll;
static uint8_t chunk[CHUNK];

static const char RESPONSE[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"; /* of the load's constant key */
static const char STAMP[] = ",\"timestamp\":\"2023-01-01T12:00:00.123Z\"}";

static void append(struct bytes *b, const void *p, size_t n) {
    if (b->length + n > b->size) b->at = realloc(b->at, b->size = (b->length + n) * 2);
    memcpy(b->at + b->length, p, n);
    b->length += n;
}

static void watch(struct connection *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void hang_up(struct connection *c) {
    for (uint32_t t = 0; t < TOPICS; t++)
        for (uint32_t i = 0; i < topics[t].count; i++)
            if (topics[t].subscribers[i] == c)
                topics[t].subscribers[i--] = topics[t].subscribers[--topics[t].count];
    close(c->fd);
    free(c->in.at);
    free(c->owed.at);
    c->fd = -1; /* the struct is not freed: this turn's events may still point to it */
}

static void give(struct connection *c, const uint8_t *p, size_t n) {
    if (c->fd < 0) return;
    ssize_t sent = c->blocked ? 0 : send(c->fd, p, n, MSG_NOSIGNAL);
    if (sent < 0) sent = 0; /* EAGAIN; the next recv() will return any other error */
    if ((size_t)sent == n) return;
    if (c->owed.length + n > MOST_OWED) { /* a stalled client is disconnected */
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    append(&c->owed, p + sent, n - (size_t)sent);
    if (!c->blocked) watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    c->blocked = 1;
}

static void give_owed(struct connection *c) {
    ssize_t sent = send(c->fd, c->owed.at, c->owed.length, MSG_NOSIGNAL);
    if (sent <= 0) return;
    c->owed.length -= (size_t)sent;
    memmove(c->owed.at, c->owed.at + sent, c->owed.length);
    if (c->owed.length > 0) return;
    c->blocked = 0;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

/* `text` is a whole envelope; the timestamp replaces its closing brace. */
static void append_frame(struct bytes *to, const uint8_t *text, size_t n) {
    size_t length = n - 1 + sizeof STAMP - 1, head = 2;
    uint8_t h[4] = {0x81, (uint8_t)length};
    if (length >= 126) {
        h[1] = 126;
        h[2] = (uint8_t)(length >> 8);
        h[3] = (uint8_t)length;
        head = 4;
    }
    append(to, h, head);
    append(to, text, n - 1);
    append(to, STAMP, sizeof STAMP - 1);
}

static void append_text(struct bytes *to, const char *text) {
    append_frame(to, (const uint8_t *)text, strlen(text));
}

/* Every topic is called "bench.NNNN". */
static uint32_t topic_at(const uint8_t *p) { return (uint32_t)atoi((const char *)p) % TOPICS; }

static void handle(struct connection *c, uint8_t *p, size_t n, struct bytes *replies) {
    static const char DATA[] = "{\"type\":\"data\",\"topic\":\"bench.";
    if (n > sizeof DATA && memcmp(p, DATA, sizeof DATA - 1) == 0) {
        uint32_t number = topic_at(p + sizeof DATA - 1);
        if (topics[number].tick.length == 0) spoken[spoken_count++] = number;
        append_frame(&topics[number].tick, p, n);
    } else if (memcmp(p, "{\"type\":\"ping\"", 14) == 0) {
        memcpy(p, "{\"type\":\"pong\"", 14);
        append_frame(replies, p, n);
    } else if (memcmp(p, "{\"type\":\"subscribe\"", 19) == 0) {
        for (uint8_t *at = p; (at = memmem(at, n - (size_t)(at - p), "bench.", 6)); at += 6) {
            struct topic *t = &topics[topic_at(at + 6)];
            if (t->count == t->size)
                t->subscribers = realloc(t->subscribers, (t->size = t->size * 2 + 8) * sizeof c);
            t->subscribers[t->count++] = c;
            append_text(replies, "{\"type\":\"subscribed\",\"id\":1}");
        }
    }
}

/* Reads the frames of a chunk and answers them all with one send(). */
static size_t read_frames(struct connection *c, uint8_t *p, size_t n) {
    static struct bytes replies;
    uint8_t *const start = p, *const end = p + n;
    replies.length = 0;
    if (!c->upgraded) {
        uint8_t *head_end = memmem(p, n, "\r\n\r\n", 4);
        if (head_end == NULL) return 0;
        c->upgraded = 1;
        p = head_end + 4;
        append(&replies, RESPONSE, sizeof RESPONSE - 1);
        append_text(&replies, "{\"type\":\"welcome\"}");
    }
    while (end - p >= 6) {
        size_t length = p[1] & 127, head = 6;
        if (length == 126) {
            length = (size_t)(p[2] << 8 | p[3]);
            head = 8;
        }
        if ((size_t)(end - p) < head + length) break;
        uint8_t *mask = p + head - 4, *text = p + head;
        for (size_t i = 0; i < length; i++) text[i] ^= mask[i & 3];
        if ((p[0] & 15) == 1) handle(c, text, length, &replies);
        p = text + length;
    }
    if (replies.length) give(c, replies.at, replies.length);
    return (size_t)(p - start);
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, chunk, CHUNK, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        hang_up(c);
        return;
    }
    uint8_t *from = chunk;
    size_t length = (size_t)got;
    if (c->in.length) { /* the rest of a frame that began in the last chunk */
        append(&c->in, chunk, length);
        from = c->in.at;
        length = c->in.length;
    }
    size_t read = read_frames(c, from, length);
    size_t rest = length - read;
    if (from == c->in.at && from) {
        memmove(c->in.at, c->in.at + read, rest);
        c->in.length = rest;
    } else if (rest) {
        append(&c->in, from + read, rest);
    }
}

static void fan_out(void) {
    for (uint32_t i = 0; i < spoken_count; i++) {
        struct topic *t = &topics[spoken[i]];
        for (uint32_t j = 0; j < t->count; j++) give(t->subscribers[j], t->tick.at, t->tick.length);
        t->tick.length = 0;
    }
    spoken_count = 0;
}

static void accept_many(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        watch(c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(int argc, char **argv) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(argv[argc - 1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("limit");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    static struct epoll_event events[READY];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, READY, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                accept_many(listener);
                continue;
            }
            if (c->fd >= 0 && events[i].events & EPOLLOUT) give_owed(c);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) receive(c);
        }
        fan_out();
    }
}
