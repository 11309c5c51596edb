/* Attention, forward and backward: what attention.c asks of attention_pairs.c (bfloat16) and attention_floats.c (float32).

   One call does whole heads of keys, with every query head that shares them. Scores exist for ROWS queries at a time
   and stay in a core's own cache; the backward pass computes them again from log(sum(exp(scores))), so that nothing of
   the size of the scores is kept (Rabe and Staats 2021; FlashAttention, Dao et al. 2022). The plain formula stands in
   athanor/models/kernels.py. */

#ifndef ATHANOR_ATTENTION_H
#define ATHANOR_ATTENTION_H

#include "athanor.h"

#if defined(__x86_64__) && ((defined(__GNUC__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 14))
#define HAS_WIDE 1
#endif

int64_t athanor_can_attend(int64_t half);

#define ROWS 32 /* queries at a time */
#define KEYS 64 /* keys are packed by so many */
#define STEP 32 /* and computed by so many */

typedef struct {
    void *data;
    int64_t row, step, head; /* numbers from one row of the batch, position, head to the next */
} Heads;

typedef struct {
    Heads q, k, v, dy, dq, dk, dv; /* the last four on the way back only */
    void *y;                       /* (B, T, N, H) */
    float *log_sum;                /* (B, N, T) */
    const int64_t *first, *end;    /* of the keys that each query sees, (T) of this row */
    int64_t length, padded;        /* padded: length rounded up to KEYS */
    int64_t heads, group, size;    /* group: query heads per key head */
    float scale;
} Task;

/* One row of the batch and one head of keys. */
typedef void Work(const Task *t, int64_t row, int64_t key_head, char *scratch);
Work pairs_forward, pairs_backward, floats_forward, floats_backward;

#endif
