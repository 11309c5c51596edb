/* Attention of bfloat16 numbers, forward and backward, by the processor's own products of pairs (AVX512-BF16).

   One call does whole heads of keys, with every query head that shares them. Scores exist for ROWS queries at a time
   and stay in a core's own cache; the backward pass computes them again from log(sum(exp(scores))), so that nothing of
   the size of the scores is kept (Rabe and Staats 2021; FlashAttention, Dao et al. 2022). The plain formula stands in
   athanor/models/kernels.py. Sums are float32; probabilities and their gradients are rounded to bfloat16 before the
   products, as torch rounds them.

   A product of pairs adds a[2i] b[2i] + a[2i+1] b[2i+1] to each of 16 sums. So the left factor is read as 32-bit words
   that hold a pair, and the right factor is packed: word [i][n] holds elements (2i, n) and (2i+1, n). */

#include "numbers.h"

#if defined(__x86_64__) && ((defined(__GNUC__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 14))
#define HAS_PAIRS 1
#include <immintrin.h>
#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))
#define INSIDE static inline __attribute__((always_inline)) FAST
#endif

#define ROWS 32  /* queries at a time */
#define KEYS 64  /* keys are packed by so many */
#define NEVER -1e30f

/* Whether this processor multiplies pairs. */
EXPORT int64_t athanor_has_pairs(void) {
#ifdef HAS_PAIRS
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return 0;
#endif
}

#ifdef HAS_PAIRS

typedef uint32_t __attribute__((may_alias)) word; /* a pair, also where single numbers were written */

typedef struct {
    const uint16_t *data;
    int64_t row, step, head; /* numbers from one row of the batch, position, head to the next */
} Heads;

typedef struct {
    int64_t length, padded, group, size; /* padded: length rounded up to KEYS; group: query heads per key head */
    const int64_t *first, *end;          /* of the keys that each query sees */
    float scale;
} Shape;

/* C[m][16 n ...] (+)= A B for 4 rows and `wide` registers; A in words a_row apart along m and a_pair along the pairs. */
INSIDE void tile(const word *a, int64_t a_row, int64_t a_pair, const word *b, int64_t b_pair, int64_t pairs,
                 float *c, int64_t c_row, int add, const int wide) {
    __m512 sums[4][4];
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++)
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++)
            sums[m][n] = add ? _mm512_loadu_ps(c + m * c_row + 16 * n) : _mm512_setzero_ps();
    for (int64_t i = 0; i < pairs; i++) {
        __m512i right[4];
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) right[n] = _mm512_loadu_si512(b + i * b_pair + 16 * n);
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++) {
            __m512i left = _mm512_set1_epi32((int)a[m * a_row + i * a_pair]);
#pragma GCC unroll 4
            for (int n = 0; n < wide; n++)
                sums[m][n] = _mm512_dpbf16_ps(sums[m][n], (__m512bh)left, (__m512bh)right[n]);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++)
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) _mm512_storeu_ps(c + m * c_row + 16 * n, sums[m][n]);
}

/* The same for `rows` rows (a multiple of 4) and `columns` columns (a multiple of 32); b_next: words to the next 64. */
INSIDE void product(const word *a, int64_t a_row, int64_t a_pair, const word *b, int64_t b_pair, int64_t b_next,
                    int64_t pairs, float *c, int64_t c_row, int64_t rows, int64_t columns, int add) {
    for (int64_t n = 0; n < columns; n += 64)
        for (int64_t m = 0; m < rows; m += 4) {
            const word *left = a + m * a_row, *right = b + n / 64 * b_next;
            if (columns - n >= 64) tile(left, a_row, a_pair, right, b_pair, pairs, c + m * c_row + n, c_row, add, 4);
            else tile(left, a_row, a_pair, right, b_pair, pairs, c + m * c_row + n, c_row, add, 2);
        }
}

/* Copies rows first ... first + count of one head, zeros behind the last. */
INSIDE void copy_rows(uint16_t *to, const uint16_t *from, int64_t step, int64_t first, int64_t count, int64_t length,
                      int64_t size) {
    for (int64_t i = 0; i < count; i++)
        if (first + i < length) memcpy(to + i * size, from + (first + i) * step, (size_t)size * 2);
        else memset(to + i * size, 0, (size_t)size * 2);
}

/* Packs rows [positions][size] so that pairs run along the positions: words [position / 2][size]. */
INSIDE void pack_positions(word *to, const uint16_t *rows, int64_t count, int64_t size) {
    for (int64_t i = 0; i < count; i += 2)
        for (int64_t h = 0; h < size; h++)
            to[i / 2 * size + h] = rows[i * size + h] | (uint32_t)rows[(i + 1) * size + h] << 16;
}

/* Packs rows so that pairs run along the size, for KEYS positions at a time: words [block][size / 2][KEYS]. */
INSIDE void pack_sizes(word *to, const uint16_t *rows, int64_t count, int64_t size) {
    const word *words = (const word *)rows;
    for (int64_t block = 0; block < count; block += KEYS)
        for (int64_t h = 0; h < size / 2; h++)
            for (int64_t i = 0; i < KEYS; i++)
                to[(block / KEYS * (size / 2) + h) * KEYS + i] = words[(block + i) * (size / 2) + h];
}

/* The keys that queries start ... start + ROWS see, in whole blocks, from *low to the result. */
INSIDE int64_t seen(const Shape *s, int64_t start, int64_t *low) {
    int64_t from = s->length, to = 0;
    for (int64_t t = start; t < start + ROWS && t < s->length; t++) {
        from = s->first[t] < from ? s->first[t] : from;
        to = s->end[t] > to ? s->end[t] : to;
    }
    *low = from / KEYS * KEYS;
    return (to + KEYS - 1) / KEYS * KEYS;
}

/* Hides what query t does not see in its scores of keys low ... high. */
INSIDE void hide(float *score, const Shape *s, int64_t t, int64_t low, int64_t high) {
    int64_t from = t < s->length ? s->first[t] : low, to = t < s->length ? s->end[t] : low + 1;
    for (int64_t i = low; i < from; i++) score[i - low] = NEVER;
    for (int64_t i = to; i < high; i++) score[i - low] = NEVER;
}

/* Rounds numbers to bfloat16, and two rows of them to words that hold a pair; counts are multiples of 16. */
INSIDE __m256i rounded(const float *from) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)); }

INSIDE void round_row(uint16_t *to, const float *from, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) _mm256_storeu_si256((__m256i *)(to + i), rounded(from + i));
}

INSIDE void round_pair(word *to, const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        __m512i low = _mm512_cvtepu16_epi32(rounded(a + i)), high = _mm512_cvtepu16_epi32(rounded(b + i));
        _mm512_storeu_si512(to + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

/* `exponential` of 16 numbers, with the operations that make it short here; below e^-87 next to nothing is left. */
INSIDE __m512 exponential16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x); /* in this order: what is no number stays none */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.3981999507e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

INSIDE float dot_halves(const uint16_t *a, const uint16_t *b, int64_t count) {
    float lanes[LANES] = {0};
    for (int64_t i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += widen(a[i + j]) * widen(b[i + j]);
    return sum_lanes(lanes);
}

/* Scores become exp(scale (score - most)) and *most the largest; returns their sum. */
INSIDE float exponentials(float *score, int64_t count, float scale, float *most) {
    __m512 largest = _mm512_set1_ps(NEVER), sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) largest = _mm512_max_ps(largest, _mm512_loadu_ps(score + i));
    *most = _mm512_reduce_max_ps(largest);
    __m512 shift = _mm512_set1_ps(*most * scale), times = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < count; i += 16) {
        __m512 e = exponential16(_mm512_fmsub_ps(_mm512_loadu_ps(score + i), times, shift));
        _mm512_storeu_ps(score + i, e);
        sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

static FAST void forward(const Heads *q, const Heads *k, const Heads *v, uint16_t *y, float *log_sum, const Shape *s,
                         int64_t row, int64_t key_head, int64_t heads, char *scratch) {
    int64_t size = s->size, padded = s->padded;
    uint16_t *rows = (uint16_t *)scratch;                  /* padded x size, then ROWS x size of queries */
    word *keys = (word *)(rows + padded * size), *values = keys + padded * size / 2;
    float *score = (float *)(values + padded * size / 2), *sum = score + ROWS * padded, *out = sum + ROWS;
    uint16_t *p = (uint16_t *)(out + ROWS * size);
    copy_rows(rows, k->data + row * k->row + key_head * k->head, k->step, 0, padded, s->length, size);
    pack_sizes(keys, rows, padded, size);
    copy_rows(rows, v->data + row * v->row + key_head * v->head, v->step, 0, padded, s->length, size);
    pack_positions(values, rows, padded, size);
    for (int64_t head = key_head * s->group; head < (key_head + 1) * s->group; head++)
        for (int64_t start = 0; start < s->length; start += ROWS) {
            int64_t low, high = seen(s, start, &low), count = high - low;
            copy_rows(rows, q->data + row * q->row + head * q->head, q->step, start, ROWS, s->length, size);
            product((word *)rows, size / 2, 1, keys + low * size / 2, KEYS, KEYS * size / 2, size / 2, score, count,
                    ROWS, count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float most;
                hide(score + i * count, s, start + i, low, high);
                sum[i] = exponentials(score + i * count, count, s->scale, &most);
                round_row(p + i * count, score + i * count, count);
                if (start + i < s->length)
                    log_sum[(row * heads + head) * s->length + start + i] = most * s->scale + logf(sum[i]);
            }
            product((word *)p, count / 2, 1, values + low * size / 2, size, KEYS, count / 2, out, size, ROWS, size, 0);
            for (int64_t i = 0; i < ROWS && start + i < s->length; i++) {
                for (int64_t h = 0; h < size; h++) out[i * size + h] /= sum[i];
                round_row(y + ((row * s->length + start + i) * heads + head) * size, out + i * size, size);
            }
        }
}

/* With p the probabilities and dp = dy v: dscore = p (dp - y dy) scale, dv = p dy, dq = dscore k, dk = dscore q. */
static FAST void backward(const Heads *q, const Heads *k, const Heads *v, const Heads *dy, const uint16_t *y,
                          const float *log_sum, uint16_t *dq, uint16_t *dk, uint16_t *dv, const Shape *s, int64_t row,
                          int64_t key_head, int64_t heads, char *scratch) {
    int64_t size = s->size, padded = s->padded, half = padded * size / 2, key_heads = heads / s->group;
    uint16_t *rows = (uint16_t *)scratch, *queries = rows + padded * size, *slopes = queries + ROWS * size;
    word *keys = (word *)(slopes + ROWS * size), *values = keys + half, *keys_up = values + half;
    word *queries_up = keys_up + half, *slopes_up = queries_up + ROWS * size / 2;
    float *dkeys = (float *)(slopes_up + ROWS * size / 2), *dvalues = dkeys + padded * size;
    float *score = dvalues + padded * size, *dp = score + ROWS * padded, *out = dp + ROWS * padded;
    word *p_up = (word *)(out + ROWS * size), *dscore_up = p_up + ROWS / 2 * padded;
    uint16_t *dscore = (uint16_t *)(dscore_up + ROWS / 2 * padded);
    memset(dkeys, 0, (size_t)(2 * padded * size) * 4);
    copy_rows(rows, v->data + row * v->row + key_head * v->head, v->step, 0, padded, s->length, size);
    pack_sizes(values, rows, padded, size);
    copy_rows(rows, k->data + row * k->row + key_head * k->head, k->step, 0, padded, s->length, size);
    pack_sizes(keys, rows, padded, size);
    pack_positions(keys_up, rows, padded, size);
    for (int64_t head = key_head * s->group; head < (key_head + 1) * s->group; head++)
        for (int64_t start = 0; start < s->length; start += ROWS) {
            int64_t low, high = seen(s, start, &low), count = high - low;
            copy_rows(queries, q->data + row * q->row + head * q->head, q->step, start, ROWS, s->length, size);
            copy_rows(slopes, dy->data + row * dy->row + head * dy->head, dy->step, start, ROWS, s->length, size);
            pack_positions(queries_up, queries, ROWS, size);
            pack_positions(slopes_up, slopes, ROWS, size);
            product((word *)queries, size / 2, 1, keys + low * size / 2, KEYS, KEYS * size / 2, size / 2, score, count,
                    ROWS, count, 0);
            product((word *)slopes, size / 2, 1, values + low * size / 2, KEYS, KEYS * size / 2, size / 2, dp, count,
                    ROWS, count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float total = 0, mean = 0, *one = score + i * count, *other = dp + i * count;
                hide(one, s, start + i, low, high);
                if (start + i < s->length) {
                    const uint16_t *result = y + ((row * s->length + start + i) * heads + head) * size;
                    total = log_sum[(row * heads + head) * s->length + start + i];
                    mean = dot_halves(result, slopes + i * size, size);
                }
                __m512 times = _mm512_set1_ps(s->scale), less = _mm512_set1_ps(total), middle = _mm512_set1_ps(mean);
                for (int64_t j = 0; j < count; j += 16) {
                    __m512 p = exponential16(_mm512_fmsub_ps(_mm512_loadu_ps(one + j), times, less));
                    _mm512_storeu_ps(one + j, p);
                    __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(other + j), middle);
                    _mm512_storeu_ps(other + j, _mm512_mul_ps(_mm512_mul_ps(p, times), slope));
                }
                round_row(dscore + i * count, other, count);
                if (i % 2) {
                    round_pair(p_up + i / 2 * count, one - count, one, count);
                    round_pair(dscore_up + i / 2 * count, other - count, other, count);
                }
            }
            product(p_up, 1, count, slopes_up, size, KEYS, ROWS / 2, dvalues + low * size, size, count, size, 1);
            product(dscore_up, 1, count, queries_up, size, KEYS, ROWS / 2, dkeys + low * size, size, count, size, 1);
            product((word *)dscore, count / 2, 1, keys_up + low * size / 2, size, KEYS, count / 2, out, size, ROWS, size,
                    0);
            for (int64_t i = 0; i < ROWS && start + i < s->length; i++)
                round_row(dq + ((row * s->length + start + i) * heads + head) * size, out + i * size, size);
        }
    for (int64_t t = 0; t < s->length; t++) {
        round_row(dk + ((row * s->length + t) * key_heads + key_head) * size, dkeys + t * size, size);
        round_row(dv + ((row * s->length + t) * key_heads + key_head) * size, dvalues + t * size, size);
    }
}

static Shape shape_of(int64_t length, int64_t group, int64_t size, double scale) {
    return (Shape){length, (length + KEYS - 1) / KEYS * KEYS, group, size, NULL, NULL, (float)scale};
}

static Heads heads_of(const void *data, const int64_t *strides) {
    return (Heads){data, strides[0], strides[1], strides[2]};
}

/* y = softmax(scale q k) v, (B, T, N, H) contiguous, and log_sum (B, N, T), for heads of keys from_item to to_item - 1
   of all rows (row x key heads + key head). strides: of q, k, v, three each. first, end: the keys that each query sees,
   seen_row from one row of the batch to the next. size is a multiple of 32. */
EXPORT int64_t athanor_attention(const void *q, const void *k, const void *v, const int64_t *strides, void *y,
                                 float *log_sum, const int64_t *first, const int64_t *end, int64_t seen_row,
                                 int64_t from_item, int64_t to_item, int64_t length, int64_t heads, int64_t group,
                                 int64_t size, double scale) {
    Shape s = shape_of(length, group, size, scale);
    Heads queries = heads_of(q, strides), keys = heads_of(k, strides + 3), values = heads_of(v, strides + 6);
    char *scratch = malloc((size_t)(s.padded * size * 6 + ROWS * (s.padded * 6 + size * 4 + 4)));
    if (!scratch) return OUT_OF_MEMORY;
    for (int64_t item = from_item; item < to_item; item++) {
        int64_t row = item / (heads / group);
        s.first = first + row * seen_row;
        s.end = end + row * seen_row;
        forward(&queries, &keys, &values, y, log_sum, &s, row, item % (heads / group), heads, scratch);
    }
    free(scratch);
    return 0;
}

/* The gradients of q, k and v, contiguous; strides: of q, k, v, dy. */
EXPORT int64_t athanor_attention_back(const void *q, const void *k, const void *v, const void *dy,
                                      const int64_t *strides, const void *y, const float *log_sum, void *dq, void *dk,
                                      void *dv, const int64_t *first, const int64_t *end, int64_t seen_row,
                                      int64_t from_item, int64_t to_item, int64_t length, int64_t heads, int64_t group,
                                      int64_t size, double scale) {
    Shape s = shape_of(length, group, size, scale);
    Heads queries = heads_of(q, strides), keys = heads_of(k, strides + 3), values = heads_of(v, strides + 6);
    Heads slopes = heads_of(dy, strides + 9);
    char *scratch = malloc((size_t)(s.padded * size * 16 + ROWS * (s.padded * 14 + size * 12)));
    if (!scratch) return OUT_OF_MEMORY;
    for (int64_t item = from_item; item < to_item; item++) {
        int64_t row = item / (heads / group);
        s.first = first + row * seen_row;
        s.end = end + row * seen_row;
        backward(&queries, &keys, &values, &slopes, y, log_sum, dq, dk, dv, &s, row, item % (heads / group), heads,
                 scratch);
    }
    free(scratch);
    return 0;
}

#endif
