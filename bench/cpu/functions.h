/* Elementary functions of float32 without a branch or a call, so that gcc makes vectors of them: the schemes and
 * coefficients of tgc/codegen/native (exponentials.py, error_functions.py, trigonometry.py), to compare on equal terms.
 * Sine and cosine leave out what is done for |x| > 2^17, which no task has.
 */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

INLINE float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE float with_sign_of(float a, float x) {
    return float_of((bits_of(a) & 0x7fffffff) | (bits_of(x) & (int32_t)0x80000000));
}

#define FMA __builtin_fmaf
#define MAGIC 12582912.0f /* 1.5 * 2^23: added to a small number, it rounds it to an integer in its low bits */
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f

/* n + offset in the low bits of a float, and r = x - n ln 2. */
INLINE float reduce_exp(float x, int offset, int32_t *n) {
    const float shifted = FMA(x, 1.4426950408889634f, MAGIC + offset), k = shifted - (MAGIC + offset);
    *n = bits_of(shifted);
    return FMA(k, -LN2_LOW, FMA(k, -LN2_HIGH, x));
}

/* exp(r) - 1 of a reduced argument. */
INLINE float expm1_polynomial(float r) {
    float p = 0.0013946779072284698f;
    p = FMA(p, r, 0.008366776630282402f);
    p = FMA(p, r, 0.04166627675294876f);
    p = FMA(p, r, 0.16666541993618011f);
    p = FMA(p, r, 0.5f);
    return FMA(p, r * r, r);
}

/* 2^n of the bits of reduce_exp with the offset 127. */
INLINE float power_of_two(int32_t n) {
    return float_of((int32_t)((uint32_t)n << 23));
}

INLINE float exp_f(float x) {
    int32_t n;
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float p = expm1_polynomial(reduce_exp(x, 254, &n)) + 1.0f;
    const int32_t half = (int32_t)((uint32_t)n << 22) & -(1 << 23);
    const int32_t rest = (int32_t)((uint32_t)n << 23) - half;
    return p * float_of(half) * float_of(rest);
}

/* log(1 + f) - f on [-1/3, 1/3]. */
INLINE float log_tail(float f) {
    const float square = f * f;
    float p = -0.1319175511598587f;
    p = FMA(p, f, 0.13962411880493164f);
    p = FMA(p, f, -0.12115103006362915f);
    p = FMA(p, f, 0.14010927081108093f);
    p = FMA(p, f, -0.16685467958450317f);
    p = FMA(p, f, 0.20010043680667877f);
    p = FMA(p, f, -0.24999688565731049f);
    p = FMA(p, f, 0.33333224058151245f);
    return FMA(square * f, p, square * -0.5f);
}

#define TWO_THIRDS 0x3f2aaaab /* the bits of 2/3 */

INLINE float log_edges(float x, float zero, float result) {
    result = x < INFINITY ? result : x;
    return x > zero ? result : x == zero ? -INFINITY : NAN;
}

INLINE float log_f(float x) {
    const int denormal = x < 0x1p-126f;
    const int32_t field = bits_of(denormal ? x * 0x1p24f : x) + ((127 << 23) - TWO_THIRDS);
    const float f = float_of((field & 0x7fffff) + TWO_THIRDS) - 1.0f;
    const float k = (float)((int32_t)((uint32_t)field >> 23) - 127) - (denormal ? 24.0f : 0.0f);
    return log_edges(x, 0.0f, FMA(k, LN2_HIGH, FMA(k, LN2_LOW, log_tail(f)) + f));
}

INLINE float log1p_f(float x) {
    const int32_t field = bits_of(x + 1.0f) + ((127 << 23) - TWO_THIRDS);
    const int32_t power = (field & 0x7f800000) - (127 << 23);
    const float f = float_of(bits_of(x) - power) + FMA(float_of((129 << 23) - power), 0.25f, -1.0f);
    const float k = (float)((int32_t)((uint32_t)field >> 23) - 127);
    const float result = log_edges(x, -1.0f, FMA(k, LN2_HIGH, FMA(k, LN2_LOW, log_tail(f)) + f));
    return fabsf(x) < 0x1p-25f ? x : result;
}

/* expm1(2 a) / (expm1(2 a) + 2), of a = |x|. */
INLINE float tanh_f(float x) {
    int32_t n;
    float a = fabsf(x);
    a = a > 10.0f ? 10.0f : a;
    const float p = expm1_polynomial(reduce_exp(a + a, 127, &n)), power = power_of_two(n);
    const float e = FMA(p, power, power - 1.0f);
    return with_sign_of(e / (e + 2.0f), x);
}

/* x (1 + P(x^2)) to 1, and 1 - Q(|x|)^4 beyond. */
INLINE float erf_f(float x) {
    const float a = fabsf(x), b = a > 4.175f ? 4.175f : a, xx = x * x;
    float q = -0.00015580934996251017f;
    q = FMA(q, b, 0.002911105053499341f);
    q = FMA(q, b, -0.020367877557873726f);
    q = FMA(q, b, 0.06039710342884064f);
    q = FMA(q, b, -0.04005913808941841f);
    q = FMA(q, b, -0.07456237077713013f);
    q = FMA(q, b, -0.302310585975647f);
    q = FMA(q, b, 1.0039170980453491f);
    q *= q;
    const float large = FMA(-q, q, 1.0f);
    float p = -0.0005631426465697587f;
    p = FMA(p, xx, 0.004917552229017019f);
    p = FMA(p, xx, -0.02671131119132042f);
    p = FMA(p, xx, 0.11280179768800735f);
    p = FMA(p, xx, -0.37612324953079224f);
    p = FMA(p, xx, 0.12837912142276764f);
    return a > 1.0f ? with_sign_of(large, x) : FMA(x, p, x);
}

/* x - k pi, by pi in three parts. */
INLINE float reduce_pi(float a, float k) {
    return FMA(k, -1.078060505991553e-14f, FMA(k, -1.5099578831723193e-07f, FMA(k, -3.141592502593994f, a)));
}

/* (-1)^n sin(r), |r| <= pi/2, of the bits of n. */
INLINE int32_t alternating(float r, int32_t n) {
    const float rr = r * r;
    float p = 2.6002385311585385e-06f;
    p = FMA(p, rr, -0.000198074005311355f);
    p = FMA(p, rr, 0.008333041332662106f);
    p = FMA(p, rr, -0.16666658222675323f);
    return bits_of(FMA(rr * r, p, r)) ^ (int32_t)((uint32_t)n << 31);
}

INLINE float sin_f(float x) {
    const float a = fabsf(x), shifted = FMA(a, 0.3183098861837907f, MAGIC);
    const int32_t bits = alternating(reduce_pi(a, shifted - MAGIC), bits_of(shifted));
    return float_of(bits ^ (bits_of(x) & (int32_t)0x80000000));
}

INLINE float cos_f(float x) {
    const float a = fabsf(x), shifted = FMA(a, 0.3183098861837907f, -0.5f) + (MAGIC + 1.0f);
    const float k = shifted - (MAGIC + 1.0f) + 0.5f;
    return float_of(alternating(reduce_pi(a, k), bits_of(shifted)));
}
