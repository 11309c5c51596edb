/* Attention of bfloat16 numbers, forward and backward, by the processor's own products of pairs (AVX512-BF16).

   Sums are float32; probabilities and their gradients are rounded to bfloat16 before the products, as torch rounds them. */

#include "attention.h"

#ifdef HAS_WIDE

#include "pairs.h"

/* Packs `there` rows of `size` numbers, `step` apart, and zeros up to `count` so that pairs run along the positions:
   words [position / 2][size]. */
INSIDE void pack_positions(word *to, const uint16_t *rows, int64_t step, int64_t there, int64_t count, int64_t size) {
    for (int64_t i = 0; i < count; i += 2)
        for (int64_t h = 0; h < size; h += 16) {
            const uint16_t *from = rows + i * step + h;
            __m512i words = side_by_side(from, i < there ? 0xFFFF : 0, from + step, i + 1 < there ? 0xFFFF : 0);
            _mm512_storeu_si512(to + i / 2 * size + h, words);
        }
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

INSIDE float dot_halves(const uint16_t *a, const uint16_t *b, int64_t count) {
    float lanes[LANES] = {0};
    for (int64_t i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += widen(a[i + j]) * widen(b[i + j]);
    return sum_lanes(lanes);
}

INSIDE uint16_t *place(const Heads *heads, int64_t row, int64_t position, int64_t head) {
    return (uint16_t *)heads->data + row * heads->row + position * heads->step + head * heads->head;
}

/* Asks for rows of one head that are read soon: they lie too far apart for the processor to foresee. */
INSIDE void fetch(const uint16_t *head, int64_t step, int64_t start, const Task *t) {
    for (int64_t i = start; i < start + ROWS && i < t->length; i++)
        for (int64_t h = 0; h < t->size; h += 32) _mm_prefetch((const char *)(head + i * step + h), _MM_HINT_T0);
}

/* ROWS rows of one head from `start` on, *step apart: where they are, or, at the end, in `copy` with zeros behind. */
INSIDE const uint16_t *some_rows(uint16_t *copy, const Heads *heads, int64_t row, int64_t head, int64_t start,
                                 const Task *t, int64_t *step) {
    *step = start + ROWS <= t->length ? heads->step : t->size;
    if (start + ROWS <= t->length) return place(heads, row, start, head);
    copy_rows(copy, heads, row, head, start, ROWS, t, 2);
    return copy;
}

/* One head of keys for products with as many columns as keys, and with as many as there are numbers in a head. */
INSIDE void pack_keys(word *to, const Heads *heads, int64_t row, int64_t head, const Task *t) {
    pack_columns(to, (const word *)place(heads, row, 0, head), t->length, t->size / 2, heads->step / 2);
}

INSIDE void pack_values(word *to, const Heads *heads, int64_t row, int64_t head, const Task *t) {
    pack_positions(to, place(heads, row, 0, head), heads->step, t->length, t->padded, t->size);
}

FAST void pairs_forward(const Task *t, int64_t row, int64_t key_head, char *scratch) {
    int64_t size = t->size, padded = t->padded, half = size / 2;
    uint16_t *rows = (uint16_t *)scratch;
    word *keys = (word *)(rows + ROWS * size), *values = keys + padded * half;
    float *score = (float *)(values + padded * half), *sum = score + ROWS * padded, *out = sum + ROWS;
    uint16_t *p = (uint16_t *)(out + ROWS * size);
    pack_keys(keys, &t->k, row, key_head, t);
    pack_values(values, &t->v, row, key_head, t);
    for (int64_t head = key_head * t->group; head < (key_head + 1) * t->group; head++)
        for (int64_t start = 0; start < t->length; start += ROWS) {
            int64_t step, low, high = seen(t, start, &low), count = high - low;
            const uint16_t *queries = some_rows(rows, &t->q, row, head, start, t, &step);
            product((word *)queries, step / 2, 1, keys + low * half, KEYS, KEYS * half, half, score, count, ROWS, count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float most;
                hide(score + i * count, t, start + i, low, high);
                sum[i] = exponentials(score + i * count, count, t->scale, &most);
                round_row(p + i * count, score + i * count, count);
                if (start + i < t->length)
                    t->log_sum[(row * t->heads + head) * t->length + start + i] = most * t->scale + logf(sum[i]);
            }
            product((word *)p, count / 2, 1, values + low * half, size, KEYS, count / 2, out, size, ROWS, size, 0);
            for (int64_t i = 0; i < ROWS && start + i < t->length; i++) {
                for (int64_t h = 0; h < size; h++) out[i * size + h] /= sum[i];
                round_row((uint16_t *)t->y + ((row * t->length + start + i) * t->heads + head) * size, out + i * size,
                          size);
            }
        }
}

/* With p the probabilities and dp = dy v: dscore = p (dp - y dy) scale, dv = p dy, dq = dscore k, dk = dscore q. */
FAST void pairs_backward(const Task *t, int64_t row, int64_t key_head, char *scratch) {
    int64_t size = t->size, padded = t->padded, half = size / 2;
    uint16_t *rows = (uint16_t *)scratch; /* of queries, then of slopes */
    word *keys = (word *)(rows + 2 * ROWS * size), *values = keys + padded * half, *keys_up = values + padded * half;
    word *queries_up = keys_up + padded * half, *slopes_up = queries_up + ROWS * half;
    float *dkeys = (float *)(slopes_up + ROWS * half), *dvalues = dkeys + padded * size;
    float *score = dvalues + padded * size, *dp = score + ROWS * padded, *out = dp + ROWS * padded;
    word *p_up = (word *)(out + ROWS * size), *dscore_up = p_up + ROWS / 2 * padded;
    uint16_t *dscore = (uint16_t *)(dscore_up + ROWS / 2 * padded);
    memset(dkeys, 0, (size_t)(2 * padded * size) * 4);
    pack_keys(values, &t->v, row, key_head, t);
    pack_keys(keys, &t->k, row, key_head, t);
    pack_values(keys_up, &t->k, row, key_head, t);
    for (int64_t head = key_head * t->group; head < (key_head + 1) * t->group; head++)
        for (int64_t start = 0; start < t->length; start += ROWS) {
            int64_t step, slope_step, low, high = seen(t, start, &low), count = high - low;
            const uint16_t *queries = some_rows(rows, &t->q, row, head, start, t, &step);
            const uint16_t *slopes = some_rows(rows + ROWS * size, &t->dy, row, head, start, t, &slope_step);
            const uint16_t *y = (uint16_t *)t->y + (row * t->length * t->heads + head) * size;
            fetch(y, t->heads * size, start, t);
            fetch(place(&t->q, row, 0, head), t->q.step, start + ROWS, t);
            fetch(place(&t->dy, row, 0, head), t->dy.step, start + ROWS, t);
            pack_positions(queries_up, queries, step, ROWS, ROWS, size);
            pack_positions(slopes_up, slopes, slope_step, ROWS, ROWS, size);
            product((word *)queries, step / 2, 1, keys + low * half, KEYS, KEYS * half, half, score, count, ROWS, count,
                    0);
            product((word *)slopes, slope_step / 2, 1, values + low * half, KEYS, KEYS * half, half, dp, count, ROWS,
                    count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float total = 0, mean = 0, *one = score + i * count, *other = dp + i * count;
                hide(one, t, start + i, low, high);
                if (start + i < t->length) {
                    total = t->log_sum[(row * t->heads + head) * t->length + start + i];
                    mean = dot_halves(y + (start + i) * t->heads * size, slopes + i * slope_step, size);
                }
                slopes_of_scores(one, other, count, t->scale, total, mean);
                round_row(dscore + i * count, other, count);
                if (i % 2) {
                    round_pair(p_up + i / 2 * count, one - count, one, count);
                    round_pair(dscore_up + i / 2 * count, other - count, other, count);
                }
            }
            product(p_up, 1, count, slopes_up, size, KEYS, ROWS / 2, dvalues + low * size, size, count, size, 1);
            product(dscore_up, 1, count, queries_up, size, KEYS, ROWS / 2, dkeys + low * size, size, count, size, 1);
            product((word *)dscore, count / 2, 1, keys_up + low * half, size, KEYS, count / 2, out, size, ROWS, size, 0);
            for (int64_t i = 0; i < ROWS && start + i < t->length; i++)
                round_row(place(&t->dq, row, start + i, head), out + i * size, size);
        }
    for (int64_t i = 0; i < t->length; i++) {
        round_row(place(&t->dk, row, i, key_head), dkeys + i * size, size);
        round_row(place(&t->dv, row, i, key_head), dvalues + i * size, size);
    }
}

#endif
