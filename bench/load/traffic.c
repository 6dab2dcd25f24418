/* Publications in flight: they are sent, their copies counted, completed, and sent again.
 *
 * A publication is complete when every healthy subscriber has its copy. Only then does its publisher
 * send the next, so `in_flight` publications are under way all the time, and the clock stops with
 * the last copy of the last one: nothing counted is still on its way. A ping is a publication with
 * one copy, which comes to the connection that sent it.
 */
#include "load.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { FIRST_NUMBER = 10000000, TEXT = 1, CLOSE = 8, PING = 9, PONG = 10, FINAL = 0x80 };

static uint32_t publisher_connection(const struct options *o, uint32_t publisher) {
    return o->publishers ? (uint32_t)o->subscribers + publisher : publisher;
}

static uint32_t pick_topic(struct worker *worker, uint32_t index) {
    const struct options *o = worker->options;
    if (!o->zipf) return index % (uint32_t)o->topics;
    worker->random ^= worker->random << 13; /* xorshift64, always from the same seed */
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    double u = (double)(worker->random >> 11) / 9007199254740992.0;
    uint32_t low = 0, high = (uint32_t)o->topics - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (worker->zipf[middle] < u) low = middle + 1; else high = middle;
    }
    return low;
}

static void publish(struct worker *worker, uint32_t slot) {
    const struct options *o = worker->options;
    uint32_t index = publisher_connection(o, slot / (uint32_t)o->in_flight);
    struct connection *c = &worker->connections[index / (uint32_t)o->processes];
    uint32_t topic = pick_topic(worker, index);
    struct publication *publication = &worker->shared->slots[slot];
    publication->topic = topic;
    publication->sent = worker->now;
    atomic_store(&publication->waiting, o->ping ? 1 : worker->holders[topic]);

    const struct template *t = &worker->templates[topic];
    queue(worker, c, t->frame, t->length);
    uint8_t *digits = c->out + c->out_length - t->length + t->digits_at;
    uint32_t number = FIRST_NUMBER + slot;
    for (int i = DIGITS - 1; i >= 0; i--, number /= 10) {
        /* frame[] holds '1000 0000' masked: taking a digit's own bits out and in keeps the mask */
        uint8_t was = i == 0 ? '1' : '0';
        digits[i] ^= (uint8_t)(was ^ ('0' + number % 10));
    }
}

/* All copies have come. The publisher sends the next, unless the time or the number is reached. */
static void complete(struct worker *worker, uint32_t slot) {
    const struct options *o = worker->options;
    struct shared *shared = worker->shared;
    histogram_add(&worker->result->latency, worker->now - shared->slots[slot].sent);
    worker->result->publications++;
    worker->result->last = worker->now;
    if (worker->now >= worker->until || atomic_fetch_sub(&shared->still_to_send, 1) <= 0) {
        atomic_fetch_sub(&shared->in_flight, 1);
        return;
    }
    uint32_t owner = publisher_connection(o, slot / (uint32_t)o->in_flight) % (uint32_t)o->processes;
    if (owner == (uint32_t)worker->number)
        publish(worker, slot);
    else if (write(worker->handed[owner][1], &slot, sizeof slot) != sizeof slot)
        fail(worker, "cannot hand a slot over: %s", strerror(errno));
}

static void deliver(struct worker *worker, uint32_t slot) {
    struct publication *publication = &worker->shared->slots[slot];
    worker->result->deliveries++;
    uint32_t expected = worker->options->ping ? 1 : worker->expected[publication->topic];
    if (++worker->reached[slot] < expected) return;
    worker->reached[slot] = 0;
    if (atomic_fetch_sub(&publication->waiting, 1) == 1) complete(worker, slot);
}

/* Reads eight ASCII digits at once, by Johnny Lee's multiply-and-shift; needs little-endian. */
static uint32_t read_digits(const uint8_t *p) {
    uint64_t value;
    memcpy(&value, p, sizeof value);
    value = (value & 0x0F0F0F0F0F0F0F0F) * 2561 >> 8;
    value = (value & 0x00FF00FF00FF00FF) * 6553601 >> 16;
    return (uint32_t)((value & 0x0000FFFF0000FFFF) * 42949672960001 >> 32);
}

/* Handles heartbeats, errors, and the very first delivery, which shows the place of the number. */
static void read_other(struct worker *worker, struct connection *c, int opcode, const uint8_t *p,
                       size_t n) {
    if (opcode == PING) {
        queue_frame(worker, c, PONG, p, n);
    } else if (opcode == CLOSE) {
        int code = n >= 2 ? p[0] << 8 | p[1] : 1005;
        snprintf(worker->refusal, sizeof worker->refusal, "closed with %d", code);
        if (c->stage == READY)
            fail(worker, "connection %u was closed with %d %.*s", c->index, code,
                 n > 2 ? (int)n - 2 : 0, (const char *)p + 2);
    } else if (opcode == TEXT && n == 1 && p[0] == '2' && worker->options->socketio) {
        queue_frame(worker, c, TEXT, "3", 1); /* Engine.IO's own ping */
    } else if (opcode == TEXT && memmem(p, n, "\"type\":\"error\"", 14)) {
        fail(worker, "the server said: %.*s", n > 300 ? 300 : (int)n, (const char *)p);
    } else if (opcode == TEXT && c->stage != READY) {
        setup_message(worker, c, p, n);
    } else if (opcode == TEXT && memmem(p, n, "\"n\":1", 5)) {
        if (!memmem(p, n, worker->options->ping ? "\"type\":\"pong\"" : "\"type\":\"data\"", 13) ||
            !memmem(p, n, "\"timestamp\":\"20", 15))
            fail(worker, "a delivery without type or timestamp: %.*s", n > 300 ? 300 : (int)n, p);
        worker->digits_at = (uint32_t)((const uint8_t *)memmem(p, n, "\"n\":1", 5) - p) + 4;
        deliver(worker, read_digits(p + worker->digits_at) - FIRST_NUMBER);
    } else if (opcode != PONG && opcode != TEXT) {
        fail(worker, "an unexpected frame, opcode %d", opcode);
    } else {
        worker->result->other++;
    }
}

/* Reads every whole frame; returns their length in bytes. */
size_t read_frames(struct worker *worker, struct connection *c, const uint8_t *p, size_t n) {
    const uint8_t *const start = p, *const end = p + n;
    if (c->stage == UPGRADING) {
        p += read_response(worker, c, p, n);
        if (c->stage == UPGRADING || c->fd < 0) return (size_t)(p - start);
    }
    const uint32_t digits_at = worker->digits_at;
    while (end - p >= 2) {
        size_t head = 2, length = p[1] & 127;
        if (length == 126) {
            if (end - p < 4) break;
            length = (size_t)(p[2] << 8 | p[3]);
            head = 4;
        } else if (length == 127) {
            if (end - p < 10) break;
            length = (size_t)p[6] << 24 | (size_t)p[7] << 16 | (size_t)p[8] << 8 | p[9];
            head = 10;
        }
        if ((size_t)(end - p) < head + length) break;
        const uint8_t *payload = p + head;
        uint32_t slot = UINT32_MAX;
        if (digits_at && p[0] == (FINAL | TEXT) && length > digits_at + DIGITS &&
            memcmp(payload + digits_at - 4, "\"n\":", 4) == 0)
            slot = read_digits(payload + digits_at) - FIRST_NUMBER;
        if (slot < worker->slot_count)
            deliver(worker, slot);
        else
            read_other(worker, c, p[0] ^ FINAL, payload, length);
        p = payload + length;
    }
    return (size_t)(p - start);
}

static void serve_events(struct worker *worker, int timeout_ms) {
    struct epoll_event events[256];
    int n = epoll_wait(worker->epoll, events, 256, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (c == NULL) { /* slots that other workers completed for our publishers */
            uint32_t slots[64];
            ssize_t got = read(worker->handed[worker->number][0], slots, sizeof slots);
            worker->now = now_ns();
            for (ssize_t j = 0; j < got / (ssize_t)sizeof *slots; j++) publish(worker, slots[j]);
        } else if ((events[i].events & ~(uint32_t)EPOLLOUT) && !receive(worker, c)) {
            fail(worker, "connection %u was lost: %s", c->index, strerror(errno));
        }
        if (events[i].events & EPOLLOUT && c && c->out_length && !c->dirty) {
            c->dirty = true;
            worker->dirty[worker->dirty_count++] = c;
        }
        if (worker->dirty_count) flush(worker);
    }
}

void run_traffic(struct worker *worker, double seconds) {
    const struct options *o = worker->options;
    struct shared *shared = worker->shared;
    uint64_t started = atomic_load(&shared->started);
    worker->until = started + (uint64_t)(seconds * 1e9);
    uint64_t give_up = worker->until + (uint64_t)(o->drain * 1e9);
    worker->now = now_ns();
    uint32_t publishers = (uint32_t)(o->publishers ? o->publishers : o->subscribers);
    for (uint32_t i = 0; i < publishers; i++) {
        if (publisher_connection(o, i) % (uint32_t)o->processes != (uint32_t)worker->number) continue;
        for (uint32_t j = 0; j < (uint32_t)o->in_flight; j++)
            publish(worker, i * (uint32_t)o->in_flight + j);
        flush(worker);
    }
    while (atomic_load(&shared->in_flight) > 0) {
        serve_events(worker, o->processes > 1 ? 1 : 100);
        if (now_ns() > give_up)
            fail(worker, "%lld publications did not arrive everywhere within %.0f s",
                 (long long)atomic_load(&shared->in_flight), o->drain);
    }
}

void run_idle(struct worker *worker, double seconds) {
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < until) serve_events(worker, 50);
}

/* Prepares the first publication: the copies that each worker expects, and the finished frames. */
void prepare_traffic(struct worker *worker) {
    const struct options *o = worker->options;
    uint32_t topics = (uint32_t)o->topics, processes = (uint32_t)o->processes;
    uint32_t *copies = calloc((size_t)topics * processes, sizeof *copies);
    for (uint32_t i = 0; i < (uint32_t)o->subscribers; i++)
        for (uint32_t j = 0; j < (uint32_t)o->topics_each && !is_stalled(o, i); j++)
            copies[(i % processes) * topics + (i + j * 97) % topics]++;
    worker->expected = calloc(topics, sizeof *worker->expected);
    worker->holders = calloc(topics, sizeof *worker->holders);
    worker->zipf = calloc(topics, sizeof *worker->zipf);
    worker->templates = calloc(topics, sizeof *worker->templates);
    double sum = 0, before = 0;
    for (uint32_t t = 0; t < topics; t++) sum += 1.0 / (t + 1);
    for (uint32_t t = 0; t < topics; t++) {
        worker->expected[t] = copies[(uint32_t)worker->number * topics + t];
        for (uint32_t p = 0; p < processes; p++) worker->holders[t] += copies[p * topics + t] > 0;
        if (!o->ping && o->mode == TRAFFIC && worker->holders[t] == 0)
            fail(worker, "topic %u has no subscriber", t);
        worker->zipf[t] = before += 1.0 / (t + 1) / sum;
        worker->templates[t] = make_template(o, t);
    }
    free(copies);
    worker->reached = calloc(worker->slot_count, sizeof *worker->reached);
    worker->random = 0x9E3779B97F4A7C15 + (uint64_t)worker->number;
}
