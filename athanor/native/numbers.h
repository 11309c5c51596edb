/* Numbers of a network: float32, and bfloat16, which is the upper half of one; sums and e^x that compilers turn into
   code for wide registers. */

#ifndef ATHANOR_NUMBERS_H
#define ATHANOR_NUMBERS_H

#include "athanor.h"
#include <math.h>

#define LANES 16 /* sums that run side by side: what a wide register holds */

static inline float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded); /* no number stays none */
}

static inline void get(float *to, const void *from, int64_t start, int64_t count, int64_t half) {
    if (half) {
        const uint16_t *values = (const uint16_t *)from + start;
        for (int64_t i = 0; i < count; i++) to[i] = widen(values[i]);
    } else memcpy(to, (const float *)from + start, (size_t)count * 4);
}

static inline void put(void *to, const float *from, int64_t start, int64_t count, int64_t half) {
    if (half) {
        uint16_t *values = (uint16_t *)to + start;
        for (int64_t i = 0; i < count; i++) values[i] = narrow(from[i]);
    } else memcpy((float *)to + start, from, (size_t)count * 4);
}

/* e^x to a relative error of 2e-7, 0 below -87, without a branch: x = n ln 2 + r, 2^n times a polynomial in r (Cephes,
   expf). */
static inline float exponential(float given) {
    float x = given < -87.0f ? -87.0f : given;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* rounds to a whole number */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return given < -87.0f ? 0.0f : p * power;
}

static inline float sum_lanes(const float *lanes) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

static inline float dot(const float *a, const float *b, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += a[i + j] * b[i + j];
    for (; i < count; i++) lanes[0] += a[i] * b[i];
    return sum_lanes(lanes);
}

#endif
