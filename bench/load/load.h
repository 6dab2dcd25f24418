/* The load generator: a few thousand WebSocket clients in one small program.
 *
 * It is written in C so that it is never the limit itself: a delivery costs it a recv(), the reading
 * of a frame's header and one counter. Everything it sends is built before the clock starts.
 *
 *   main.c        options, worker processes, the phases of a run, the JSON result
 *   setup.c       from connect() to the last `subscribed`
 *   traffic.c     publications in flight: sent, counted, completed, sent again
 *   wire.c        sockets, frames, and the messages of the two dialects
 *   latency.c     a histogram with 1.6 % resolution
 */
#ifndef MOORAGE_BENCH_LOAD_H
#define MOORAGE_BENCH_LOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_PROCESSES = 64, BUCKETS = 64 * 58, RECEIVE_BUFFER = 1 << 18, DIGITS = 8 };

enum mode {
    TRAFFIC, /* publish, or ping, for a while */
    CONNECT, /* drop all clients, and measure the time until all are connected again */
    IDLE,    /* do nothing but answer heartbeats */
};

struct options {
    enum mode mode;
    int port;
    bool socketio;      /* the dialect: envelopes in Socket.IO events, else bare envelopes */
    const char *tokens; /* a file with one token a line; connection i brings line i modulo lines */
    int processes;
    int subscribers;
    int publishers;  /* connections that only publish; 0: the subscribers themselves do */
    int topics;      /* number of topics */
    int topics_each; /* how many of them each subscriber is subscribed to */
    int in_flight;   /* publications (or pings) that each publisher keeps under way */
    int payload;     /* bytes of JSON in `data` */
    int stalled;     /* number of subscribers, the first ones, that stop reading once subscribed */
    int concurrency; /* opening handshakes under way at a time, for each process */
    bool ping;       /* `ping` and its `pong` rather than publications */
    bool zipf;       /* which topic: by Zipf's law; else the publisher's own */
    double warmup, seconds, drain, rest; /* seconds */
    long most;                           /* highest number of publications in a phase */
};

enum stage { CLOSED, CONNECTING, UPGRADING, OPENING, GREETING, SUBSCRIBING, READY };

struct connection {
    int fd;
    enum stage stage;
    uint32_t index;    /* among all the connections of the run: decides topic, token, worker */
    uint32_t awaited;  /* `subscribed` replies still to come */
    uint64_t since;    /* when connect() was called, ns */
    bool dirty;        /* is in the worker's list of those with something to send */
    bool blocked;      /* its kernel buffer is full: epoll reports when to go on */
    uint8_t *kept;     /* the beginning of a frame whose end has not come yet */
    uint32_t kept_length;
    uint8_t *out;
    uint32_t out_length, out_size;
};

struct histogram {
    uint64_t count[BUCKETS];
    uint64_t total, highest; /* ns */
};

/* The counts of one worker in the measured phase. */
struct result {
    uint64_t publications, deliveries, other, retries;
    uint64_t last; /* when its last delivery came, ns */
    double cpu;    /* seconds of processor time, user and system */
    struct histogram latency;
};

/* A publication under way. The payload has its slot's number, which identifies every copy. */
struct publication {
    uint64_t sent; /* ns */
    uint32_t topic;
    _Atomic uint32_t waiting; /* workers that have not got all their copies yet */
};

/* Memory that all worker processes share. */
struct shared {
    pthread_barrier_t barrier;
    _Atomic int64_t in_flight;    /* publications under way, all workers together */
    _Atomic int64_t still_to_send; /* counts down from options.most */
    _Atomic uint64_t started;     /* ns, of the current phase */
    char failure[512];            /* why a worker gave up */
    struct result results[MAX_PROCESSES];
    struct publication slots[];
};

struct template {
    uint8_t *frame; /* whole and masked */
    uint32_t length, payload_at, digits_at; /* digits_at: from the frame's beginning */
};

struct worker {
    const struct options *options;
    struct shared *shared;
    int number;
    int epoll;
    int handed[MAX_PROCESSES][2]; /* pipes: slots handed back to the worker that owns them */
    struct connection *connections;
    uint32_t count;
    struct connection **dirty;
    uint32_t dirty_count;
    uint32_t *expected; /* copies of one publication that come to this worker, by topic */
    uint32_t *holders;  /* workers with any subscriber of it, by topic */
    uint32_t *reached;   /* copies that came, by slot */
    uint32_t slot_count; /* publishers times in_flight */
    double *zipf;       /* cumulated probability, by topic */
    uint64_t random;
    struct template *templates; /* by topic */
    uint32_t digits_at;         /* where in a delivery the slot's number begins; 0: not known yet */
    uint64_t now, until;        /* ns: this chunk's arrival; the end of sending */
    uint32_t ready, opening, next_to_open;
    char **token_lines;
    uint32_t token_count;
    struct result *result;
    uint8_t *buffer;   /* what recv() fills */
    char refusal[128]; /* the last reason why a connection was refused */
};

/* main.c */
_Noreturn void fail(struct worker *worker, const char *format, ...);
uint64_t now_ns(void);
uint32_t all_connections(const struct options *options);

/* wire.c */
int dial(const struct options *options, bool stalled);
void queue(struct worker *worker, struct connection *c, const void *bytes, size_t length);
void queue_frame(struct worker *worker, struct connection *c, int opcode, const void *p, size_t n);
void queue_message(struct worker *worker, struct connection *c, const char *envelope);
void flush(struct worker *worker);
bool receive(struct worker *worker, struct connection *c); /* false: the connection is gone */
void hang_up(struct worker *worker, struct connection *c);
void watch(struct worker *worker, struct connection *c, uint32_t events, int operation);
struct template make_template(const struct options *options, uint32_t topic);

/* setup.c */
void open_everyone(struct worker *worker);
size_t read_response(struct worker *worker, struct connection *c, const uint8_t *p, size_t n);
void setup_message(struct worker *worker, struct connection *c, const uint8_t *p, size_t n);
bool is_stalled(const struct options *options, uint32_t index);

/* traffic.c */
size_t read_frames(struct worker *worker, struct connection *c, const uint8_t *p, size_t n);
void run_traffic(struct worker *worker, double seconds);
void run_idle(struct worker *worker, double seconds);
void prepare_traffic(struct worker *worker);

/* latency.c */
void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);
double histogram_quantile(const struct histogram *histogram, double quantile); /* seconds */
void histogram_print(const struct histogram *histogram);

#endif
