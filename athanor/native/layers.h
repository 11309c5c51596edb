/* What layers.c leaves to registers of 16 numbers (layers_wide.h), for bfloat16 numbers (pairs) and float32 ones
   (floats). The formulas stand in layers.c. */

#ifndef ATHANOR_LAYERS_H
#define ATHANOR_LAYERS_H

#include "attention.h"

typedef int64_t Norm(const void *x, const void *weight, void *y, float *inverse, int64_t first, int64_t last,
                     int64_t width, float eps);
typedef int64_t NormBack(const void *x, const void *weight, const float *inverse, const void *dy, void *dx,
                         float *dweight, int64_t first, int64_t last, int64_t width);
typedef int64_t Swiglu(const void *x, void *y, int64_t first, int64_t last, int64_t hidden);
typedef int64_t SwigluBack(const void *x, const void *dy, void *dx, int64_t first, int64_t last, int64_t hidden);
typedef int64_t CrossEntropy(void *logits, const int64_t *targets, float *loss, float *log_sum, int64_t first,
                             int64_t last, int64_t vocabulary, float z);
typedef int64_t Rotate(const void *x, void *y, const float *cosine, const float *sine, int64_t first, int64_t last,
                       int64_t length, int64_t heads, int64_t size, int64_t turns, int64_t x_row, int64_t x_step,
                       int64_t x_head, int64_t y_row, int64_t y_step, int64_t y_head, int64_t angle_row, float sign);

Norm pairs_rms_norm, floats_rms_norm;
NormBack pairs_rms_norm_back, floats_rms_norm_back;
Swiglu pairs_swiglu, floats_swiglu;
SwigluBack pairs_swiglu_back, floats_swiglu_back;
CrossEntropy pairs_cross_entropy, floats_cross_entropy;
Rotate pairs_rotate, floats_rotate;

/* Leaves a function of layers.c to them where the processor has such registers. */
#ifdef HAS_WIDE
#define BY_REGISTERS(name, ...) \
    if (athanor_can_attend(half)) return (half ? pairs_##name : floats_##name)(__VA_ARGS__)
#else
#define BY_REGISTERS(name, ...)
#endif

#endif
