/* A log-linear histogram: 64 buckets for each power of two of nanoseconds, so within 1.6 %. */
#include "load.h"

#include <stdio.h>

static uint32_t bucket_of(uint64_t ns) {
    if (ns < 64) return (uint32_t)ns;
    int power = 63 - __builtin_clzll(ns);
    return (uint32_t)(power - 5) * 64 + (uint32_t)((ns >> (power - 6)) & 63);
}

static uint64_t upper_edge(uint32_t bucket) {
    if (bucket < 64) return bucket;
    uint32_t power = bucket / 64 + 5;
    return (uint64_t)(64 + bucket % 64 + 1) << (power - 6);
}

void histogram_add(struct histogram *histogram, uint64_t ns) {
    uint32_t bucket = bucket_of(ns);
    histogram->count[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    histogram->total++;
    if (ns > histogram->highest) histogram->highest = ns;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
    for (uint32_t i = 0; i < BUCKETS; i++) into->count[i] += from->count[i];
    into->total += from->total;
    if (from->highest > into->highest) into->highest = from->highest;
}

double histogram_quantile(const struct histogram *histogram, double quantile) {
    uint64_t rank = (uint64_t)(quantile * (double)histogram->total), seen = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        seen += histogram->count[i];
        if (seen > rank) {
            uint64_t edge = upper_edge(i);
            return (double)(edge < histogram->highest ? edge : histogram->highest) / 1e9;
        }
    }
    return (double)histogram->highest / 1e9;
}

/* Prints [[upper edge in seconds, count], ...] of the buckets that are not empty. */
void histogram_print(const struct histogram *histogram) {
    const char *separator = "";
    printf("[");
    for (uint32_t i = 0; i < BUCKETS; i++) {
        if (histogram->count[i] == 0) continue;
        printf("%s[%.9f,%llu]", separator, (double)upper_edge(i) / 1e9,
               (unsigned long long)histogram->count[i]);
        separator = ",";
    }
    printf("]");
}
