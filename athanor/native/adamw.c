/* One update of AdamW in one pass over memory (Loshchilov and Hutter 2019, algorithm 2), which torch.optim.AdamW defines. */

#include "attention.h"

#ifdef HAS_WIDE

#include "pairs.h"

/* For numbers first to last - 1, with g = scale gradient: mean and square follow g and g^2, and
   master = (1 - rate decay) master - rate mean' / (sqrt(square') + epsilon), where mean' = mean / mean_share and square' =
   square / square_share. The gradient is bfloat16 when `half` is 1, else float32. weight, where it is given: the master
   rounded to bfloat16. */
FAST EXPORT int64_t athanor_adamw(float *master, float *mean, float *square, const void *gradient, uint16_t *weight,
                                  int64_t first, int64_t last, double scale, double rate, double beta1, double beta2,
                                  double epsilon, double decay, double mean_share, double square_share, int64_t half) {
    __m512 times = _mm512_set1_ps((float)scale), keep = _mm512_set1_ps((float)(1 - rate * decay));
    __m512 b1 = _mm512_set1_ps((float)beta1), rest1 = _mm512_set1_ps((float)(1 - beta1));
    __m512 b2 = _mm512_set1_ps((float)beta2), rest2 = _mm512_set1_ps((float)(1 - beta2));
    __m512 root = _mm512_set1_ps((float)(1 / sqrt(square_share))), least = _mm512_set1_ps((float)epsilon);
    __m512 step = _mm512_set1_ps((float)(rate / mean_share));
    for (int64_t i = first; i < last; i += 16) {
        __mmask16 some = lowest(last - i);
        __m512 g = half ? get_some((const uint16_t *)gradient + i, some)
                        : _mm512_maskz_loadu_ps(some, (const float *)gradient + i);
        g = _mm512_mul_ps(g, times);
        __m512 m = _mm512_fmadd_ps(b1, _mm512_maskz_loadu_ps(some, mean + i), _mm512_mul_ps(rest1, g));
        __m512 v = _mm512_fmadd_ps(b2, _mm512_maskz_loadu_ps(some, square + i), _mm512_mul_ps(rest2, _mm512_mul_ps(g, g)));
        __m512 under = _mm512_fmadd_ps(_mm512_sqrt_ps(v), root, least);
        __m512 x = _mm512_mul_ps(keep, _mm512_maskz_loadu_ps(some, master + i));
        x = _mm512_fnmadd_ps(step, _mm512_div_ps(m, under), x);
        _mm512_mask_storeu_ps(mean + i, some, m);
        _mm512_mask_storeu_ps(square + i, some, v);
        _mm512_mask_storeu_ps(master + i, some, x);
        if (weight) put_some(weight + i, some, x);
    }
    return 0;
}

#endif
