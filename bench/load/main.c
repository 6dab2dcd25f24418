/* Options, worker processes, the phases of a run, the JSON result.
 *
 *   load --port P --tokens FILE [options]     (bench/load.py explains the options)
 *
 * Prints {"connected": n} once all clients are connected and subscribed, waits for a line on standard
 * input (the harness reads the server's memory and processor time meanwhile), does its work, and
 * prints one JSON object, or {"failure": why}. It always ends by itself.
 */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shared *shared;
static pid_t children[MAX_PROCESSES];
static int child_count;

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint32_t all_connections(const struct options *o) {
    return (uint32_t)(o->subscribers + o->publishers);
}

static double processor_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Ends this worker and, through the parent's on_child(), the whole run. */
_Noreturn void fail(struct worker *worker, const char *format, ...) {
    char *text = worker->shared->failure;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof worker->shared->failure, format, arguments);
    va_end(arguments);
    for (char *at = text; *at; at++) /* it will stand in a JSON string */
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = '\'';
    _exit(1);
}

static void end_with(const char *why) {
    char line[600];
    int length = snprintf(line, sizeof line, "{\"failure\": \"%s\"}\n", why);
    for (int i = 0; i < child_count; i++) kill(children[i], SIGKILL);
    ssize_t ignored = write(STDOUT_FILENO, line, (size_t)length);
    (void)ignored;
    _exit(1);
}

static void on_child(int signal_number) {
    (void)signal_number;
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            end_with(shared->failure[0] ? shared->failure : "a load process crashed");
}

static void on_alarm(int signal_number) {
    (void)signal_number;
    end_with("the run took too long");
}

static void meet(void) { pthread_barrier_wait(&shared->barrier); }

static void drop_everyone(struct worker *worker) {
    for (uint32_t i = 0; i < worker->count; i++) {
        hang_up(worker, &worker->connections[i]);
        worker->connections[i].since = 0;
    }
}

static void clear(struct result *result) { memset(result, 0, sizeof *result); }

/* Runs one worker. The parent takes part in every meet(), so that all workers begin a phase together. */
static void work(struct worker *worker) {
    const struct options *o = worker->options;
    struct result *result = worker->result;
    open_everyone(worker);
    meet(); /* connected */
    meet(); /* go */
    clear(result);
    double cpu = processor_seconds();
    if (o->mode == IDLE) {
        run_idle(worker, o->seconds);
    } else if (o->mode == CONNECT) {
        drop_everyone(worker);
        usleep((useconds_t)(o->rest * 1e6));
        meet();
        cpu = processor_seconds();
        open_everyone(worker);
        result->last = now_ns();
    } else {
        if (o->warmup > 0) run_traffic(worker, o->warmup);
        meet();
        clear(result);
        cpu = processor_seconds();
        meet();
        run_traffic(worker, o->seconds);
    }
    result->cpu = processor_seconds() - cpu;
    meet(); /* done */
}

static void begin_phase(const struct options *o, int64_t publications) {
    shared->in_flight = publications;
    shared->still_to_send = o->most - publications;
    shared->started = now_ns();
}

static void conduct(const struct options *o, int64_t slots) {
    meet();
    printf("{\"connected\": %u}\n", all_connections(o));
    fflush(stdout);
    char line[16];
    if (fgets(line, sizeof line, stdin) == NULL) end_with("the harness went away");
    begin_phase(o, slots);
    meet();
    if (o->mode == CONNECT) {
        usleep((useconds_t)(o->rest * 1e6));
        shared->started = now_ns();
        meet();
    } else if (o->mode == TRAFFIC) {
        meet();
        begin_phase(o, slots);
        meet();
    }
    meet();
}

static void print_result(const struct options *o) {
    struct result sum = {0};
    for (int i = 0; i < o->processes; i++) {
        struct result *one = &shared->results[i];
        sum.publications += one->publications;
        sum.deliveries += one->deliveries;
        sum.other += one->other;
        sum.retries += one->retries;
        if (one->last > sum.last) sum.last = one->last;
        histogram_merge(&sum.latency, &one->latency);
    }
    double seconds = sum.last ? (double)(sum.last - shared->started) / 1e9 : o->seconds;
    printf("{\"seconds\": %.9f, \"publications\": %llu, \"deliveries\": %llu, \"other\": %llu, "
           "\"retries\": %llu, \"cpu\": [",
           seconds, (unsigned long long)sum.publications, (unsigned long long)sum.deliveries,
           (unsigned long long)sum.other, (unsigned long long)sum.retries);
    for (int i = 0; i < o->processes; i++)
        printf("%s%.4f", i ? ", " : "", shared->results[i].cpu / seconds);
    printf("], \"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f, \"histogram\": ",
           histogram_quantile(&sum.latency, 0.5), histogram_quantile(&sum.latency, 0.99),
           (double)sum.latency.highest / 1e9);
    histogram_print(&sum.latency);
    printf("}\n");
}

static void read_tokens(struct worker *worker, const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) fail(worker, "no tokens: %s", strerror(errno));
    char *line = NULL;
    size_t size = 0;
    uint32_t room = 0;
    while (getline(&line, &size, file) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (worker->token_count == room) {
            room = room * 2 + 64;
            worker->token_lines = realloc(worker->token_lines, room * sizeof(char *));
        }
        worker->token_lines[worker->token_count++] = strdup(line);
    }
    fclose(file);
    if (worker->token_count == 0) fail(worker, "no tokens in the file");
}

static void be_worker(const struct options *o, int number, int (*pipes)[2], uint32_t slots) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct worker worker = {.options = o, .shared = shared, .number = number, .slot_count = slots};
    worker.result = &shared->results[number];
    memcpy(worker.handed, pipes, sizeof worker.handed);
    worker.epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(worker.epoll, EPOLL_CTL_ADD, pipes[number][0], &event);
    uint32_t all = all_connections(o), processes = (uint32_t)o->processes;
    worker.connections = calloc(all / processes + 1, sizeof *worker.connections);
    for (uint32_t i = (uint32_t)number; i < all; i += processes)
        worker.connections[worker.count++] = (struct connection){.fd = -1, .index = i};
    worker.dirty = calloc(worker.count + 1, sizeof *worker.dirty);
    worker.buffer = malloc(RECEIVE_BUFFER * 2 + 16);
    read_tokens(&worker, o->tokens);
    prepare_traffic(&worker);
    work(&worker);
    _exit(0);
}

static struct options read_options(int argc, char **argv) {
    struct options o = {.processes = 1, .subscribers = 1, .topics = 1, .in_flight = 1,
                        .payload = 64, .concurrency = 64, .warmup = 0.2, .seconds = 1,
                        .drain = 60, .most = 50000000};
    static const struct option names[] = {
        {"mode", 1, 0, 'm'},        {"port", 1, 0, 'p'},        {"dialect", 1, 0, 'd'},
        {"tokens", 1, 0, 'k'},      {"processes", 1, 0, 'P'},   {"subscribers", 1, 0, 's'},
        {"publishers", 1, 0, 'u'},  {"topics", 1, 0, 't'},      {"topics-each", 1, 0, 'e'},
        {"in-flight", 1, 0, 'f'},   {"payload", 1, 0, 'b'},     {"stalled", 1, 0, 'x'},
        {"concurrency", 1, 0, 'c'}, {"ping", 0, 0, 'g'},        {"zipf", 0, 0, 'z'},
        {"warmup", 1, 0, 'w'},      {"seconds", 1, 0, 'n'},     {"drain", 1, 0, 'r'},
        {"rest", 1, 0, 'R'},        {"most", 1, 0, 'M'},        {0, 0, 0, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
            case 'm': o.mode = optarg[0] == 'c' ? CONNECT : optarg[0] == 'i' ? IDLE : TRAFFIC; break;
            case 'p': o.port = atoi(optarg); break;
            case 'd': o.socketio = strcmp(optarg, "socketio") == 0; break;
            case 'k': o.tokens = optarg; break;
            case 'P': o.processes = atoi(optarg); break;
            case 's': o.subscribers = atoi(optarg); break;
            case 'u': o.publishers = atoi(optarg); break;
            case 't': o.topics = atoi(optarg); break;
            case 'e': o.topics_each = atoi(optarg); break;
            case 'f': o.in_flight = atoi(optarg); break;
            case 'b': o.payload = atoi(optarg); break;
            case 'x': o.stalled = atoi(optarg); break;
            case 'c': o.concurrency = atoi(optarg); break;
            case 'g': o.ping = true; break;
            case 'z': o.zipf = true; break;
            case 'w': o.warmup = atof(optarg); break;
            case 'n': o.seconds = atof(optarg); break;
            case 'r': o.drain = atof(optarg); break;
            case 'R': o.rest = atof(optarg); break;
            case 'M': o.most = atol(optarg); break;
            default: exit(2);
        }
    }
    if (o.port <= 0 || o.tokens == NULL || o.payload < 26 || o.payload > 60000 ||
        o.processes < 1 || o.processes > MAX_PROCESSES || o.subscribers < 1 || o.topics < 1 ||
        o.topics > 9999 || o.in_flight < 1) {
        fprintf(stderr, "load: options are missing or out of range\n");
        exit(2);
    }
    return o;
}

int main(int argc, char **argv) {
    struct options o = read_options(argc, argv);
    int64_t slots = (int64_t)(o.publishers ? o.publishers : o.subscribers) * o.in_flight;
    size_t size = sizeof *shared + (size_t)slots * sizeof(struct publication);
    shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) end_with("no shared memory");
    pthread_barrierattr_t across;
    pthread_barrierattr_init(&across);
    pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &across, (unsigned)o.processes + 1);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, on_child);
    signal(SIGALRM, on_alarm);
    alarm((unsigned)(o.warmup + o.seconds + o.rest + 2 * o.drain) + 120);

    static int pipes[MAX_PROCESSES][2];
    for (int i = 0; i < o.processes; i++)
        if (pipe2(pipes[i], O_CLOEXEC) < 0) end_with("no pipe");
    for (int i = 0; i < o.processes; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGCHLD, SIG_DFL);
            child_count = 0;
            be_worker(&o, i, pipes, (uint32_t)slots);
        }
        children[child_count++] = pid;
    }
    conduct(&o, slots);
    print_result(&o);
    return 0;
}
