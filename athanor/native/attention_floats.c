/* Attention of float32 numbers, forward and backward (AVX512). */

#include "attention.h"

#ifdef HAS_WIDE

#include "floats.h"

INSIDE float *place(const Heads *heads, int64_t row, int64_t position, int64_t head) {
    return (float *)heads->data + row * heads->row + position * heads->step + head * heads->head;
}

INSIDE void put_row(float *to, const float *from, int64_t count) { memcpy(to, from, (size_t)count * 4); }

FAST void floats_forward(const Task *t, int64_t row, int64_t key_head, char *scratch) {
    int64_t size = t->size, padded = t->padded;
    float *keys = (float *)scratch, *values = keys + padded * size; /* values hold the keys while those are packed */
    float *score = values + padded * size, *queries = score + ROWS * padded, *out = queries + ROWS * size;
    copy_rows(values, &t->k, row, key_head, 0, padded, t, 4);
    pack_columns((word *)keys, (word *)values, padded, size, size);
    copy_rows(values, &t->v, row, key_head, 0, padded, t, 4);
    for (int64_t head = key_head * t->group; head < (key_head + 1) * t->group; head++)
        for (int64_t start = 0; start < t->length; start += ROWS) {
            int64_t low, high = seen(t, start, &low), count = high - low;
            float sum[ROWS];
            copy_rows(queries, &t->q, row, head, start, ROWS, t, 4);
            product((word *)queries, size, 1, (word *)keys + low * size, KEYS, KEYS * size, size, score, count, ROWS,
                    count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float most;
                hide(score + i * count, t, start + i, low, high);
                sum[i] = exponentials(score + i * count, count, t->scale, &most);
                if (start + i < t->length)
                    t->log_sum[(row * t->heads + head) * t->length + start + i] = most * t->scale + logf(sum[i]);
            }
            product((word *)score, count, 1, (word *)values + low * size, size, KEYS, count, out, size, ROWS, size, 0);
            for (int64_t i = 0; i < ROWS && start + i < t->length; i++) {
                float *y = (float *)t->y + ((row * t->length + start + i) * t->heads + head) * size;
                for (int64_t h = 0; h < size; h++) y[h] = out[i * size + h] / sum[i];
            }
        }
}

/* With p the probabilities and dp = dy v: dscore = p (dp - y dy) scale, dv = p dy, dq = dscore k, dk = dscore q. */
FAST void floats_backward(const Task *t, int64_t row, int64_t key_head, char *scratch) {
    int64_t size = t->size, padded = t->padded;
    float *rows = (float *)scratch, *keys = rows + padded * size, *values = keys + padded * size;
    float *dkeys = values + padded * size, *dvalues = dkeys + padded * size;
    float *score = dvalues + padded * size, *dp = score + ROWS * padded;
    float *queries = dp + ROWS * padded, *slopes = queries + ROWS * size, *out = slopes + ROWS * size;
    memset(dkeys, 0, (size_t)(2 * padded * size) * 4);
    copy_rows(rows, &t->v, row, key_head, 0, padded, t, 4);
    pack_columns((word *)values, (word *)rows, padded, size, size);
    copy_rows(rows, &t->k, row, key_head, 0, padded, t, 4);
    pack_columns((word *)keys, (word *)rows, padded, size, size);
    for (int64_t head = key_head * t->group; head < (key_head + 1) * t->group; head++)
        for (int64_t start = 0; start < t->length; start += ROWS) {
            int64_t low, high = seen(t, start, &low), count = high - low, ahead = low * size;
            copy_rows(queries, &t->q, row, head, start, ROWS, t, 4);
            copy_rows(slopes, &t->dy, row, head, start, ROWS, t, 4);
            product((word *)queries, size, 1, (word *)keys + ahead, KEYS, KEYS * size, size, score, count, ROWS, count,
                    0);
            product((word *)slopes, size, 1, (word *)values + ahead, KEYS, KEYS * size, size, dp, count, ROWS, count, 0);
            for (int64_t i = 0; i < ROWS; i++) {
                float total = 0, mean = 0;
                hide(score + i * count, t, start + i, low, high);
                if (start + i < t->length) {
                    const float *y = (float *)t->y + ((row * t->length + start + i) * t->heads + head) * size;
                    total = t->log_sum[(row * t->heads + head) * t->length + start + i];
                    mean = dot(y, slopes + i * size, size);
                }
                slopes_of_scores(score + i * count, dp + i * count, count, t->scale, total, mean);
            }
            product((word *)score, 1, count, (word *)slopes, size, KEYS, ROWS, dvalues + ahead, size, count, size, 1);
            product((word *)dp, 1, count, (word *)queries, size, KEYS, ROWS, dkeys + ahead, size, count, size, 1);
            product((word *)dp, count, 1, (word *)rows + ahead, size, KEYS, count, out, size, ROWS, size, 0);
            for (int64_t i = 0; i < ROWS && start + i < t->length; i++)
                put_row(place(&t->dq, row, start + i, head), out + i * size, size);
        }
    for (int64_t i = 0; i < t->length; i++) {
        put_row(place(&t->dk, row, i, key_head), dkeys + i * size, size);
        put_row(place(&t->dv, row, i, key_head), dvalues + i * size, size);
    }
}

#endif
