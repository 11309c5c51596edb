/* What stands between the products, in registers of 16 numbers (layers.h). What includes this defines before: pairs.h
   or floats.h; OF(name), what a function is called. */

#ifndef ATHANOR_LAYERS_WIDE_H
#define ATHANOR_LAYERS_WIDE_H

#include "layers.h"

static float *widened(const number *numbers, int64_t count) {
    float *wide = malloc((size_t)(count + 16) * 4);
    for (int64_t i = 0; wide && i < count; i++) wide[i] = as_float(numbers[i]);
    return wide;
}

FAST int64_t OF(rms_norm)(const void *of_x, const void *of_weight, void *of_y, float *inverse, int64_t first,
                          int64_t last, int64_t width, float eps) {
    const number *x = of_x, *weight = of_weight;
    number *y = of_y;
    float *scale = widened(weight, width);
    if (!scale) return OUT_OF_MEMORY;
    for (int64_t n = first; n < last; n++) {
        const number *row = x + n * width;
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += 16) {
            __m512 a = get_some(row + i, lowest(width - i));
            squares = _mm512_fmadd_ps(a, a, squares);
        }
        inverse[n] = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + eps);
        __m512 r = _mm512_set1_ps(inverse[n]);
        for (int64_t i = 0; i < width; i += 16) {
            __mmask16 some = lowest(width - i);
            __m512 normal = _mm512_mul_ps(get_some(row + i, some), r);
            put_some(y + n * width + i, some, _mm512_mul_ps(normal, _mm512_loadu_ps(scale + i)));
        }
    }
    free(scale);
    return 0;
}

FAST int64_t OF(rms_norm_back)(const void *of_x, const void *of_weight, const float *inverse, const void *of_dy,
                               void *of_dx, float *dweight, int64_t first, int64_t last, int64_t width) {
    const number *x = of_x, *weight = of_weight, *dy = of_dy;
    number *dx = of_dx;
    float *scale = widened(weight, width);
    if (!scale) return OUT_OF_MEMORY;
    for (int64_t n = first; n < last; n++) {
        __m512 r = _mm512_set1_ps(inverse[n]), sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += 16) {
            __mmask16 some = lowest(width - i);
            __m512 normal = _mm512_mul_ps(get_some(x + n * width + i, some), r), d = get_some(dy + n * width + i, some);
            __m512 weighed = _mm512_fmadd_ps(d, normal, _mm512_maskz_loadu_ps(some, dweight + i));
            _mm512_mask_storeu_ps(dweight + i, some, weighed);
            sum = _mm512_fmadd_ps(_mm512_mul_ps(d, normal), _mm512_maskz_loadu_ps(some, scale + i), sum);
        }
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
        for (int64_t i = 0; i < width; i += 16) {
            __mmask16 some = lowest(width - i);
            __m512 normal = _mm512_mul_ps(get_some(x + n * width + i, some), r);
            __m512 g = _mm512_mul_ps(get_some(dy + n * width + i, some), _mm512_maskz_loadu_ps(some, scale + i));
            put_some(dx + n * width + i, some, _mm512_mul_ps(r, _mm512_fnmadd_ps(normal, mean, g)));
        }
    }
    free(scale);
    return 0;
}

/* 1 / (1 + e^-x) */
INSIDE __m512 sigmoid(__m512 x) {
    __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponential16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

FAST int64_t OF(swiglu)(const void *of_x, void *of_y, int64_t first, int64_t last, int64_t hidden) {
    const number *x = of_x;
    number *y = of_y;
    for (int64_t n = first; n < last; n++)
        for (int64_t i = 0; i < hidden; i += 16) {
            __mmask16 some = lowest(hidden - i);
            __m512 gate = get_some(x + 2 * n * hidden + i, some), up = get_some(x + (2 * n + 1) * hidden + i, some);
            put_some(y + n * hidden + i, some, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up));
        }
    return 0;
}

FAST int64_t OF(swiglu_back)(const void *of_x, const void *of_dy, void *of_dx, int64_t first, int64_t last,
                             int64_t hidden) {
    const number *x = of_x, *dy = of_dy;
    number *dx = of_dx;
    for (int64_t n = first; n < last; n++)
        for (int64_t i = 0; i < hidden; i += 16) {
            __mmask16 some = lowest(hidden - i);
            __m512 gate = get_some(x + 2 * n * hidden + i, some), up = get_some(x + (2 * n + 1) * hidden + i, some);
            __m512 d = get_some(dy + n * hidden + i, some), s = sigmoid(gate), active = _mm512_mul_ps(gate, s);
            __m512 slope = _mm512_fmadd_ps(active, _mm512_sub_ps(_mm512_set1_ps(1.0f), s), s);
            put_some(dx + 2 * n * hidden + i, some, _mm512_mul_ps(_mm512_mul_ps(d, up), slope));
            put_some(dx + (2 * n + 1) * hidden + i, some, _mm512_mul_ps(d, active));
        }
    return 0;
}

FAST int64_t OF(cross_entropy)(void *of_logits, const int64_t *targets, float *loss, float *log_sum, int64_t first,
                               int64_t last, int64_t vocabulary, float z) {
    number *logits = of_logits;
    float *row = malloc((size_t)(vocabulary + 16) * 4);
    if (!row) return OUT_OF_MEMORY;
    for (int64_t n = first; n < last; n++) {
        number *x = logits + n * vocabulary;
        __m512 largest = _mm512_set1_ps(-INFINITY), sums = _mm512_setzero_ps();
        for (int64_t i = 0; i < vocabulary; i += 16) {
            __mmask16 some = lowest(vocabulary - i);
            largest = _mm512_mask_max_ps(largest, some, get_some(x + i, some), largest); /* what is no number is left */
        }
        float most = _mm512_reduce_max_ps(largest), target = as_float(x[targets[n]]);
        for (int64_t i = 0; i < vocabulary; i += 16) {
            __mmask16 some = lowest(vocabulary - i);
            __m512 e = exponential16(_mm512_sub_ps(get_some(x + i, some), _mm512_set1_ps(most)));
            _mm512_storeu_ps(row + i, e);
            sums = _mm512_mask_add_ps(sums, some, sums, e);
        }
        float sum = _mm512_reduce_add_ps(sums), all = most + logf(sum), share = (1.0f + 2.0f * z * all) / sum;
        loss[n] = all - target;
        log_sum[n] = all;
        for (int64_t i = 0; i < vocabulary; i += 16)
            put_some(x + i, lowest(vocabulary - i), _mm512_mul_ps(_mm512_loadu_ps(row + i), _mm512_set1_ps(share)));
        x[targets[n]] = as_number(row[targets[n]] * share - 1.0f);
    }
    free(row);
    return 0;
}

FAST int64_t OF(rotate)(const void *of_x, void *of_y, const float *cosine, const float *sine, int64_t first, int64_t last,
                        int64_t length, int64_t heads, int64_t size, int64_t turns, int64_t x_row, int64_t x_step,
                        int64_t x_head, int64_t y_row, int64_t y_step, int64_t y_head, int64_t angle_row, float sign) {
    for (int64_t n = first; n < last; n++) {
        int64_t row = n / length, place = n % length;
        const number *x = (const number *)of_x + row * x_row + place * x_step;
        number *y = (number *)of_y + row * y_row + place * y_step;
        const float *c = cosine + row * angle_row + place * turns, *s = sine + row * angle_row + place * turns;
        for (int64_t i = 0; i < turns; i += 16) {
            __mmask16 some = lowest(turns - i);
            __m512 along = _mm512_maskz_loadu_ps(some, c + i);
            __m512 across = _mm512_mul_ps(_mm512_maskz_loadu_ps(some, s + i), _mm512_set1_ps(sign));
            for (int64_t h = 0; h < heads; h++) {
                const number *from = x + h * x_head + i;
                number *to = y + h * y_head + i;
                __m512 a = get_some(from, some), b = get_some(from + turns, some);
                put_some(to, some, _mm512_fmsub_ps(a, along, _mm512_mul_ps(b, across)));
                put_some(to + turns, some, _mm512_fmadd_ps(b, along, _mm512_mul_ps(a, across)));
            }
        }
        for (int64_t h = 0; h < heads && 2 * turns < size; h++)
            memcpy(y + h * y_head + 2 * turns, x + h * x_head + 2 * turns, (size_t)(size - 2 * turns) * sizeof *x);
    }
    return 0;
}

#endif
