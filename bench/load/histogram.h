/* A log-linear histogram of nanoseconds, after HdrHistogram: 64 steps per power of two (1.6 %), no allocation. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STEPS_LOG2 6
#define STEPS (1 << STEPS_LOG2)

struct histogram {
    uint64_t counts[STEPS * 60];
    uint64_t total;
    uint64_t max;
};

static inline int64_t now_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline unsigned histogram_slot(uint64_t value)
{
    if (value < STEPS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - STEPS_LOG2;
    return (shift + 1) * STEPS + (unsigned)(value >> shift) - STEPS;
}

static inline uint64_t histogram_value(unsigned slot)
{
    if (slot < STEPS)
        return slot;
    unsigned shift = slot / STEPS - 1;
    return ((uint64_t)(slot % STEPS + STEPS) << shift) + ((1ull << shift) >> 1);
}

static inline void histogram_add(struct histogram *histogram, int64_t nanoseconds)
{
    uint64_t value = nanoseconds > 0 ? (uint64_t)nanoseconds : 0;
    unsigned slot = histogram_slot(value);
    unsigned last = sizeof histogram->counts / sizeof histogram->counts[0] - 1;
    histogram->counts[slot < last ? slot : last]++;
    histogram->total++;
    if (value > histogram->max)
        histogram->max = value;
}

static inline double histogram_microseconds(const struct histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram->total + 0.5), seen = 0;
    for (unsigned slot = 0; slot < sizeof histogram->counts / sizeof histogram->counts[0]; slot++) {
        seen += histogram->counts[slot];
        if (seen >= wanted && seen > 0)
            return (double)histogram_value(slot) / 1000;
    }
    return 0;
}

static inline void histogram_print(const struct histogram *histogram)
{
    printf("\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
           histogram_microseconds(histogram, 0.5), histogram_microseconds(histogram, 0.9),
           histogram_microseconds(histogram, 0.99), histogram_microseconds(histogram, 0.999),
           (double)histogram->max / 1000);
}

#endif
