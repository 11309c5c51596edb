/* Which attention for which numbers, and all heads of a batch (attention.h). */

#include "attention.h"

/* Whether this processor has products of pairs of bfloat16 numbers (half = 1), or registers of 16 float32 numbers. */
EXPORT int64_t athanor_can_attend(int64_t half) {
#ifdef HAS_WIDE
    __builtin_cpu_init();
    return (!half || __builtin_cpu_supports("avx512bf16")) && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return half - half;
#endif
}

#ifdef HAS_WIDE

static Heads heads_of(const void *data, const int64_t *strides) {
    return (Heads){(void *)data, strides[0], strides[1], strides[2]};
}

/* Items from_item to to_item - 1 (row x key heads + key head); seen_row: ranges from one row of the batch to the next. */
static int64_t each_item(Task task, int64_t seen_row, int64_t from_item, int64_t to_item, Work *work, int64_t bytes) {
    int64_t key_heads = task.heads / task.group;
    const int64_t *first = task.first, *end = task.end;
    char *scratch = malloc((size_t)bytes);
    if (!scratch) return OUT_OF_MEMORY;
    for (int64_t item = from_item; item < to_item; item++) {
        task.first = first + item / key_heads * seen_row;
        task.end = end + item / key_heads * seen_row;
        work(&task, item / key_heads, item % key_heads, scratch);
    }
    free(scratch);
    return 0;
}

static Task task_of(const void *q, const void *k, const void *v, const int64_t *strides, const void *y,
                    const float *log_sum, const int64_t *first, const int64_t *end, int64_t length, int64_t heads,
                    int64_t group, int64_t size, double scale) {
    return (Task){
        .q = heads_of(q, strides), .k = heads_of(k, strides + 3), .v = heads_of(v, strides + 6), .y = (void *)y,
        .log_sum = (float *)log_sum, .first = first, .end = end, .length = length,
        .padded = (length + KEYS - 1) / KEYS * KEYS, .heads = heads, .group = group, .size = size,
        .scale = (float)scale,
    };
}

/* y = softmax(scale q k) v, (B, T, N, H) contiguous, and log_sum (B, N, T), for heads of keys from_item to to_item - 1
   of all rows (row x key heads + key head). strides: of q, k, v, three each. first, end: the keys that each query sees,
   seen_row from one row of the batch to the next. size is a multiple of 32. */
EXPORT int64_t athanor_attention(const void *q, const void *k, const void *v, const int64_t *strides, void *y,
                                 float *log_sum, const int64_t *first, const int64_t *end, int64_t seen_row,
                                 int64_t from_item, int64_t to_item, int64_t length, int64_t heads, int64_t group,
                                 int64_t size, double scale, int64_t half) {
    Task t = task_of(q, k, v, strides, y, log_sum, first, end, length, heads, group, size, scale);
    int64_t bytes = t.padded * size * 8 + ROWS * (t.padded * 6 + size * 8 + 4);
    return each_item(t, seen_row, from_item, to_item, half ? pairs_forward : floats_forward, bytes);
}

/* The gradients of q, k and v; strides: of q, k, v, dy, dq, dk, dv. */
EXPORT int64_t athanor_attention_back(const void *q, const void *k, const void *v, const void *dy, void *dq, void *dk,
                                      void *dv, const int64_t *strides, const void *y, const float *log_sum,
                                      const int64_t *first, const int64_t *end, int64_t seen_row, int64_t from_item,
                                      int64_t to_item, int64_t length, int64_t heads, int64_t group, int64_t size,
                                      double scale, int64_t half) {
    Task t = task_of(q, k, v, strides, y, log_sum, first, end, length, heads, group, size, scale);
    t.dy = heads_of(dy, strides + 9);
    t.dq = heads_of(dq, strides + 12);
    t.dk = heads_of(dk, strides + 15);
    t.dv = heads_of(dv, strides + 18);
    int64_t bytes = t.padded * size * 20 + ROWS * (t.padded * 14 + size * 12);
    return each_item(t, seen_row, from_item, to_item, half ? pairs_backward : floats_backward, bytes);
}

#endif
