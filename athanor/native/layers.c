/* What stands between the matrix products of a Transformer, each in one pass over memory, forward and backward.

   Numbers are float32, or bfloat16 (the upper half of a float32) when `half` is 1; sums are float32 either way. Rows
   lie one behind the other; functions take rows first to last - 1 of them, so that several threads can share the work.
   A block of a row is widened to float32 in a buffer that the nearest cache holds, computed, and rounded back to the
   nearest even number. The plain formulas stand in athanor/models/kernels.py. */

#include "layers.h"
#include "numbers.h"

/* One version of a function for each width of registers; which one runs is decided when the library is opened. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

/* Part of a version, compiled for its registers, too. */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
#if defined(_MSC_VER)
#define restrict __restrict
#endif

#define BLOCK 512

/* y = x r weight with r = 1 / sqrt(mean(x^2) + eps), which is kept for the way back. */
WIDE EXPORT int64_t athanor_rms_norm(const void *x, const void *weight, void *y, float *inverse, int64_t first,
                                     int64_t last, int64_t width, double eps, int64_t half) {
    BY_REGISTERS(rms_norm, x, weight, y, inverse, first, last, width, (float)eps);
    float *row = malloc((size_t)width * 8), *scale = row + width;
    if (!row) return OUT_OF_MEMORY;
    get(scale, weight, 0, width, half);
    for (int64_t n = first; n < last; n++) {
        get(row, x, n * width, width, half);
        float r = 1.0f / sqrtf(dot(row, row, width) / (float)width + (float)eps);
        for (int64_t i = 0; i < width; i++) row[i] = row[i] * r * scale[i];
        put(y, row, n * width, width, half);
        inverse[n] = r;
    }
    free(row);
    return 0;
}

/* With n = x r and g = dy weight: dx = r (g - n mean(g n)); adds sum(dy n) over its rows to `dweight`. */
WIDE EXPORT int64_t athanor_rms_norm_back(const void *x, const void *weight, const float *inverse, const void *dy,
                                          void *dx, float *dweight, int64_t first, int64_t last, int64_t width,
                                          int64_t half) {
    BY_REGISTERS(rms_norm_back, x, weight, inverse, dy, dx, dweight, first, last, width);
    float *normal = malloc((size_t)width * 12), *g = normal + width, *scale = g + width;
    if (!normal) return OUT_OF_MEMORY;
    get(scale, weight, 0, width, half);
    for (int64_t n = first; n < last; n++) {
        float r = inverse[n];
        get(normal, x, n * width, width, half);
        get(g, dy, n * width, width, half);
        for (int64_t i = 0; i < width; i++) {
            normal[i] *= r;
            dweight[i] += g[i] * normal[i];
            g[i] *= scale[i];
        }
        float mean = dot(g, normal, width) / (float)width;
        for (int64_t i = 0; i < width; i++) g[i] = r * (g[i] - normal[i] * mean);
        put(dx, g, n * width, width, half);
    }
    free(normal);
    return 0;
}

/* y = silu(gate) up, where a row of x is gate and up side by side. */
WIDE EXPORT int64_t athanor_swiglu(const void *x, void *y, int64_t first, int64_t last, int64_t hidden, int64_t half) {
    BY_REGISTERS(swiglu, x, y, first, last, hidden);
    float gate[BLOCK], up[BLOCK];
    for (int64_t n = first; n < last; n++)
        for (int64_t start = 0; start < hidden; start += BLOCK) {
            int64_t count = hidden - start < BLOCK ? hidden - start : BLOCK;
            get(gate, x, 2 * n * hidden + start, count, half);
            get(up, x, (2 * n + 1) * hidden + start, count, half);
            for (int64_t i = 0; i < count; i++) up[i] *= gate[i] / (1.0f + exponential(-gate[i]));
            put(y, up, n * hidden + start, count, half);
        }
    return 0;
}

/* With s = sigmoid(gate): dup = dy gate s, dgate = dy up s (1 + gate (1 - s)). */
WIDE EXPORT int64_t athanor_swiglu_back(const void *x, const void *dy, void *dx, int64_t first, int64_t last,
                                        int64_t hidden, int64_t half) {
    BY_REGISTERS(swiglu_back, x, dy, dx, first, last, hidden);
    float gate[BLOCK], up[BLOCK], d[BLOCK];
    for (int64_t n = first; n < last; n++)
        for (int64_t start = 0; start < hidden; start += BLOCK) {
            int64_t count = hidden - start < BLOCK ? hidden - start : BLOCK;
            get(gate, x, 2 * n * hidden + start, count, half);
            get(up, x, (2 * n + 1) * hidden + start, count, half);
            get(d, dy, n * hidden + start, count, half);
            for (int64_t i = 0; i < count; i++) {
                float s = 1.0f / (1.0f + exponential(-gate[i])), active = gate[i] * s;
                gate[i] = d[i] * up[i] * (s + active * (1.0f - s));
                up[i] = d[i] * active;
            }
            put(dx, gate, 2 * n * hidden + start, count, half);
            put(dx, up, (2 * n + 1) * hidden + start, count, half);
        }
    return 0;
}

/* One head of float32, and of bfloat16 numbers; sign -1 turns back. */
INLINE void turn(const float *restrict x, float *restrict y, const float *restrict c, const float *restrict s,
                 int64_t size, int64_t turns, float sign) {
    for (int64_t i = 0; i < turns; i++) {
        y[i] = x[i] * c[i] - x[turns + i] * (sign * s[i]);
        y[turns + i] = x[turns + i] * c[i] + x[i] * (sign * s[i]);
    }
    for (int64_t i = 2 * turns; i < size; i++) y[i] = x[i];
}

INLINE void turn_halves(const uint16_t *restrict x, uint16_t *restrict y, const float *restrict c,
                        const float *restrict s, int64_t size, int64_t turns, float sign) {
    for (int64_t i = 0; i < turns; i++) {
        float a = widen(x[i]), b = widen(x[turns + i]);
        y[i] = narrow(a * c[i] - b * (sign * s[i]));
        y[turns + i] = narrow(b * c[i] + a * (sign * s[i]));
    }
    for (int64_t i = 2 * turns; i < size; i++) y[i] = x[i];
}

/* Turns pairs (a, b) of every head by an angle: (a cos - b sin, b cos + a sin); sign -1 turns back.

   x has heads of `size` numbers, x_step apart along the length and x_head from head to head; y, which is no part of x,
   likewise. Pairs are the halves of the first 2 `turns` numbers; what follows them is copied. cos and sin: `turns`
   float32 for each position, angle_row from one row of the batch to the next (0: the same for all). */
WIDE EXPORT int64_t athanor_rotate(const void *x, void *y, const float *cosine, const float *sine, int64_t first,
                                   int64_t last, int64_t length, int64_t heads, int64_t size, int64_t turns,
                                   int64_t x_row, int64_t x_step, int64_t x_head, int64_t y_row, int64_t y_step,
                                   int64_t y_head, int64_t angle_row, int64_t sign, int64_t half) {
    BY_REGISTERS(rotate, x, y, cosine, sine, first, last, length, heads, size, turns, x_row, x_step, x_head, y_row, y_step,
                 y_head, angle_row, (float)sign);
    for (int64_t n = first; n < last; n++) {
        int64_t row = n / length, place = n % length;
        const float *c = cosine + row * angle_row + place * turns, *s = sine + row * angle_row + place * turns;
        for (int64_t h = 0; h < heads; h++) {
            int64_t from = row * x_row + place * x_step + h * x_head, to = row * y_row + place * y_step + h * y_head;
            if (half) turn_halves((const uint16_t *)x + from, (uint16_t *)y + to, c, s, size, turns, (float)sign);
            else turn((const float *)x + from, (float *)y + to, c, s, size, turns, (float)sign);
        }
    }
    return 0;
}

/* Rows of logits become their gradient, softmax - onehot(target), and loss[n] = -log softmax(logits)[target].

   log_sum[n] = log(sum(exp(logits))); with z > 0 the gradient is that of loss + z log_sum^2. */
WIDE EXPORT int64_t athanor_cross_entropy(void *logits, const int64_t *targets, float *loss, float *log_sum,
                                          int64_t first, int64_t last, int64_t vocabulary, double z, int64_t half) {
    BY_REGISTERS(cross_entropy, logits, targets, loss, log_sum, first, last, vocabulary, (float)z);
    float *row = malloc((size_t)vocabulary * 4);
    if (!row) return OUT_OF_MEMORY;
    for (int64_t n = first; n < last; n++) {
        float lanes[LANES], most = -INFINITY;
        get(row, logits, n * vocabulary, vocabulary, half);
        for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
        int64_t i = 0;
        for (; i + LANES <= vocabulary; i += LANES)
            for (int j = 0; j < LANES; j++) lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
        for (; i < vocabulary; i++) most = row[i] > most ? row[i] : most;
        for (int j = 0; j < LANES; j++) most = lanes[j] > most ? lanes[j] : most;
        float target = row[targets[n]];
        for (int j = 0; j < LANES; j++) lanes[j] = 0;
        for (i = 0; i + LANES <= vocabulary; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float e = exponential(row[i + j] - most);
                row[i + j] = e;
                lanes[j] += e;
            }
        for (; i < vocabulary; i++) lanes[0] += row[i] = exponential(row[i] - most);
        float sum = sum_lanes(lanes), all = most + logf(sum);
        loss[n] = all - target;
        log_sum[n] = all;
        float share = (1.0f + 2.0f * (float)z * all) / sum;
        for (i = 0; i < vocabulary; i++) row[i] *= share;
        row[targets[n]] -= 1.0f;
        put(logits, row, n * vocabulary, vocabulary, half);
    }
    free(row);
    return 0;
}

/* sum[i] += added[i] for bfloat16 numbers first to last - 1. */
WIDE EXPORT int64_t athanor_add(float *sum, const uint16_t *added, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) sum[i] += widen(added[i]);
    return 0;
}
