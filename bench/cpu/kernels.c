/* The tasks by hand in C, the best that fused loops over warm memory do here: every input read and every output
 * written once where the task allows it, polynomials instead of libm calls, OpenMP over chunks or rows.
 *
 * Each function takes the shape of the task, the inputs and the outputs, all float32 unless said. Reductions are
 * reordered within a chunk (omp simd) and carried on in double. Gradients follow by_numpy.py.
 */

#include "functions.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROOT_HALF 0.70710678f
#define DENSITY 0.39894228f /* 1/sqrt(2 pi) */
#define GELU 0.79788456f    /* sqrt(2/pi) */
#define CUBIC 0.044715f
#define EPSILON 1e-5f

enum { CHUNK = 8192, GRAIN = 60000 };

#define TASK(name) void name(const long *shape, float *const *in, float *const *out)
#define SIMD _Pragma("omp simd")
#define SIMD_SUM _Pragma("omp simd reduction(+ : part)")
#define PARALLEL _Pragma("omp parallel for schedule(static) if (n > GRAIN)")
#define PARALLEL_SUM _Pragma("omp parallel for schedule(static) reduction(+ : total) if (n > GRAIN)")
#define PARALLEL_ROWS _Pragma("omp parallel for schedule(static) if (rows * columns > GRAIN)")

static inline long least(long a, long b) { return a < b ? a : b; }

/* Run the statement for each i < n. */
#define EACH(...)                                                          \
    do {                                                                   \
        const long n = shape[0];                                           \
        PARALLEL for (long c = 0; c < n; c += CHUNK) {                     \
            const long end = least(n, c + CHUNK);                          \
            SIMD for (long i = c; i < end; i++) { __VA_ARGS__ }            \
        }                                                                  \
    } while (0)

/* Add up what the statements assign to `term`, over each i < n, in `sum`. */
#define FOLD(sum, ...)                                                     \
    double sum;                                                            \
    do {                                                                   \
        const long n = shape[0];                                           \
        double total = 0;                                                  \
        PARALLEL_SUM for (long c = 0; c < n; c += CHUNK) {                 \
            const long end = least(n, c + CHUNK);                          \
            float part = 0;                                                \
            SIMD_SUM for (long i = c; i < end; i++) {                      \
                float term;                                                \
                __VA_ARGS__                                                \
                part += term;                                              \
            }                                                              \
            total += part;                                                 \
        }                                                                  \
        sum = total;                                                       \
    } while (0)

INLINE float sigmoid(float x) { return 1 / (1 + exp_f(-x)); }
INLINE float cdf(float x) { return 0.5f * (1 + erf_f(x * ROOT_HALF)); }
INLINE float pdf(float x) { return DENSITY * exp_f(-0.5f * x * x); }

/* --- elementwise ------------------------------------------------------------------------------- */

TASK(add) {
    const float *a = in[0], *b = in[1];
    float *y = out[0];
    EACH(y[i] = a[i] + b[i];);
}

TASK(sigmoid_sum) {
    const float *x = in[0];
    FOLD(sum, term = sigmoid(x[i]););
    *out[0] = (float)sum;
}

TASK(sigmoid_sum_gradient) {
    const float *x = in[0];
    float *dx = out[1];
    FOLD(sum, term = sigmoid(x[i]); dx[i] = term * (1 - term););
    *out[0] = (float)sum;
}

TASK(gelu_erf) {
    const float *x = in[0];
    float *y = out[0];
    EACH(y[i] = x[i] * cdf(x[i]););
}

TASK(gelu_erf_gradient) {
    const float *x = in[0], *g = in[1];
    float *y = out[0], *dx = out[1];
    EACH(const float a = x[i]; const float p = cdf(a); y[i] = a * p; dx[i] = g[i] * (p + a * pdf(a)););
}

TASK(gelu_tanh) {
    const float *x = in[0];
    float *y = out[0];
    EACH(const float a = x[i]; y[i] = 0.5f * a * (1 + tanh_f(GELU * (a + CUBIC * a * a * a))););
}

TASK(gelu_tanh_gradient) {
    const float *x = in[0], *g = in[1];
    float *y = out[0], *dx = out[1];
    EACH(const float a = x[i]; const float t = tanh_f(GELU * (a + CUBIC * a * a * a));
         const float slope = GELU * (1 + 3 * CUBIC * a * a); y[i] = 0.5f * a * (1 + t);
         dx[i] = g[i] * (0.5f * (1 + t) + 0.5f * a * (1 - t * t) * slope););
}

TASK(swiglu) {
    const float *x = in[0], *v = in[1];
    float *y = out[0];
    EACH(y[i] = x[i] * sigmoid(x[i]) * v[i];);
}

TASK(swiglu_gradient) {
    const float *x = in[0], *v = in[1], *g = in[2];
    float *y = out[0], *dx = out[1], *dv = out[2];
    EACH(const float s = sigmoid(x[i]); const float silu = x[i] * s; y[i] = silu * v[i];
         dx[i] = g[i] * v[i] * (s + silu * (1 - s)); dv[i] = g[i] * silu;);
}

TASK(bce) {
    const float *z = in[0], *t = in[1];
    FOLD(sum, const float a = z[i];
         term = (a > 0 ? a : 0) - a * t[i] + log1p_f(exp_f(a > 0 ? -a : a)););
    *out[0] = (float)(sum / shape[0]);
}

TASK(bce_gradient) {
    const float *z = in[0], *t = in[1];
    float *dz = out[1];
    const float share = 1.0f / shape[0];
    FOLD(sum, const float a = z[i]; const float e = exp_f(a > 0 ? -a : a);
         const float s = (a > 0 ? 1.0f : e) / (1 + e); dz[i] = (s - t[i]) * share;
         term = (a > 0 ? a : 0) - a * t[i] + log1p_f(e););
    *out[0] = (float)(sum / shape[0]);
}

TASK(huber) {
    const float *x = in[0], *t = in[1];
    FOLD(sum, const float d = x[i] - t[i]; const float a = fabsf(d);
         term = a <= 1 ? 0.5f * d * d : a - 0.5f;);
    *out[0] = (float)(sum / shape[0]);
}

TASK(huber_gradient) {
    const float *x = in[0], *t = in[1];
    float *dx = out[1];
    const float share = 1.0f / shape[0];
    FOLD(sum, const float d = x[i] - t[i]; const float a = fabsf(d);
         dx[i] = (d > 1 ? 1.0f : d < -1 ? -1.0f : d) * share;
         term = a <= 1 ? 0.5f * d * d : a - 0.5f;);
    *out[0] = (float)(sum / shape[0]);
}

TASK(third_derivative) {
    const float *x = in[0];
    float *y = out[0];
    EACH(const float a = x[i]; const float aa = a * a; const float s = sin_f(a);
         const float c = cos_f(a); const float e = exp_f(-aa);
         const float u1 = e * (c - 2 * a * s);
         const float u2 = e * ((4 * aa - 3) * s - 4 * a * c);
         const float u3 = e * ((18 - 8 * aa) * a * s + (12 * aa - 7) * c);
         const float t = tanh_f(e * s); const float f1 = 1 - t * t;
         const float f2 = -2 * t * f1; const float f3 = f1 * (6 * t * t - 2);
         y[i] = f3 * u1 * u1 * u1 + 3 * f2 * u1 * u2 + f1 * u3;);
}

/* Inputs w, b, x, goal, and the rate as a fifth. In place. */
TASK(regression_step) {
    float *w = in[0], *b = in[1];
    const float *x = in[2];
    FOLD(sum, term = w[i] * x[i];);
    const float rate = *in[4];
    const float pull = rate * 2 * (float)(sum + *b - *in[3]);
    EACH(w[i] -= pull * x[i];);
    *b -= pull;
}

/* Inputs p, g, m, v, and nine constants. In place. */
TASK(adamw) {
    float *p = in[0], *m = in[2], *v = in[3];
    const float *g = in[1], *k = in[4];
    const float keep = k[0], beta1 = k[1], rest1 = k[2], beta2 = k[3], rest2 = k[4];
    const float rate = k[5], correction = k[6], epsilon = k[7];
    EACH(const float mean = beta1 * m[i] + rest1 * g[i];
         const float square = beta2 * v[i] + rest2 * g[i] * g[i];
         p[i] = keep * p[i] - rate * mean / (__builtin_sqrtf(square) * correction + epsilon);
         m[i] = mean; v[i] = square;);
}

TASK(variance) {
    const float *x = in[0];
    FOLD(sum, term = x[i];);
    const float mean = (float)(sum / shape[0]);
    FOLD(squares, const float d = x[i] - mean; term = d * d;);
    *out[0] = (float)(squares / shape[0]);
}

TASK(variance_gradient) {
    const float *x = in[0];
    float *dx = out[1];
    const float share = 2.0f / shape[0];
    FOLD(sum, term = x[i];);
    const float mean = (float)(sum / shape[0]);
    FOLD(squares, const float d = x[i] - mean; dx[i] = d * share; term = d * d;);
    *out[0] = (float)(squares / shape[0]);
}

TASK(black_scholes) {
    const float *spot = in[0], *strike = in[1], *years = in[2], *rate = in[3], *vol = in[4];
    float *price = out[0];
    EACH(const float spread = vol[i] * __builtin_sqrtf(years[i]);
         const float d1 = (log_f(spot[i] / strike[i]) + (rate[i] + 0.5f * vol[i] * vol[i]) * years[i]) / spread;
         price[i] = spot[i] * cdf(d1) - strike[i] * exp_f(-rate[i] * years[i]) * cdf(d1 - spread););
}

TASK(black_scholes_gradient) {
    const float *spot = in[0], *strike = in[1], *years = in[2], *rate = in[3], *vol = in[4];
    float *price = out[0], *delta = out[1], *time = out[2], *rho = out[3], *vega = out[4], *gamma = out[5];
    EACH(const float root = __builtin_sqrtf(years[i]); const float spread = vol[i] * root;
         const float d1 = (log_f(spot[i] / strike[i]) + (rate[i] + 0.5f * vol[i] * vol[i]) * years[i]) / spread;
         const float first = cdf(d1); const float density = pdf(d1);
         const float bond = strike[i] * exp_f(-rate[i] * years[i]) * cdf(d1 - spread);
         price[i] = spot[i] * first - bond; delta[i] = first;
         time[i] = spot[i] * density * vol[i] / (2 * root) + rate[i] * bond;
         rho[i] = years[i] * bond; vega[i] = spot[i] * density * root;
         gamma[i] = density / (spot[i] * spread););
}

/* --- rows -------------------------------------------------------------------------------------- */

INLINE float row_max(const float *x, long n) {
    float most = x[0];
    _Pragma("omp simd reduction(max : most)") for (long i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

INLINE float row_sum(const float *x, long n) {
    float part = 0;
    SIMD_SUM for (long i = 0; i < n; i++) part += x[i];
    return part;
}

INLINE float row_dot(const float *x, const float *y, long n) {
    float part = 0;
    SIMD_SUM for (long i = 0; i < n; i++) part += x[i] * y[i];
    return part;
}

/* exp(x - most), stored where y is not NULL, and their sum. */
INLINE float row_exp(const float *x, float *y, float most, long n) {
    float part = 0;
    SIMD_SUM for (long i = 0; i < n; i++) {
        const float e = exp_f(x[i] - most);
        y[i] = e;
        part += e;
    }
    return part;
}

INLINE float row_exp_sum(const float *x, float most, long n) {
    float part = 0;
    SIMD_SUM for (long i = 0; i < n; i++) part += exp_f(x[i] - most);
    return part;
}

#define ROWS(...)                                                          \
    do {                                                                   \
        const long rows = shape[0], columns = shape[1];                    \
        PARALLEL_ROWS for (long r = 0; r < rows; r++) {                    \
            const long at = r * columns;                                   \
            __VA_ARGS__                                                    \
        }                                                                  \
    } while (0)

TASK(softmax) {
    ROWS(const float *x = in[0] + at; float *y = out[0] + at;
         const float scale = 1 / row_exp(x, y, row_max(x, columns), columns);
         SIMD for (long i = 0; i < columns; i++) y[i] *= scale;);
}

TASK(softmax_gradient) {
    ROWS(const float *x = in[0] + at; const float *g = in[1] + at; float *y = out[0] + at;
         float *dx = out[1] + at;
         const float scale = 1 / row_exp(x, y, row_max(x, columns), columns);
         const float inner = row_dot(g, y, columns) * scale;
         SIMD for (long i = 0; i < columns; i++) {
             const float p = y[i] * scale;
             y[i] = p;
             dx[i] = p * (g[i] - inner);
         });
}

TASK(log_softmax) {
    ROWS(const float *x = in[0] + at; float *y = out[0] + at;
         const float most = row_max(x, columns);
         const float shift = most + log_f(row_exp_sum(x, most, columns));
         SIMD for (long i = 0; i < columns; i++) y[i] = x[i] - shift;);
}

TASK(log_softmax_gradient) {
    ROWS(const float *x = in[0] + at; const float *g = in[1] + at; float *y = out[0] + at;
         float *dx = out[1] + at; const float most = row_max(x, columns);
         const float total = row_exp(x, dx, most, columns); const float shift = most + log_f(total);
         const float scale = row_sum(g, columns) / total;
         SIMD for (long i = 0; i < columns; i++) {
             y[i] = x[i] - shift;
             dx[i] = g[i] - dx[i] * scale;
         });
}

/* The mean, and 1/sqrt(variance + epsilon). */
INLINE float row_moments(const float *x, long n, float *scale) {
    const float mean = row_sum(x, n) / n;
    float part = 0;
    SIMD_SUM for (long i = 0; i < n; i++) part += (x[i] - mean) * (x[i] - mean);
    *scale = 1 / __builtin_sqrtf(part / n + EPSILON);
    return mean;
}

TASK(layer_norm) {
    const float *weight = in[1], *bias = in[2];
    ROWS(const float *x = in[0] + at; float *y = out[0] + at; float scale;
         const float mean = row_moments(x, columns, &scale);
         SIMD for (long i = 0; i < columns; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];);
}

/* Sums over rows: each thread adds up its own rows in a row of its own. */
#define PER_THREAD(width, ...)                                             \
    do {                                                                   \
        const long rows = shape[0], columns = shape[1];                    \
        memset(totals, 0, (width) * sizeof(float));                        \
        _Pragma("omp parallel if (rows * columns > GRAIN)") {              \
            float *own = calloc((width), sizeof(float));                   \
            _Pragma("omp for schedule(static)") for (long r = 0; r < rows; r++) { \
                const long at = r * columns;                               \
                __VA_ARGS__                                                \
            }                                                              \
            _Pragma("omp critical") {                                      \
                SIMD for (long i = 0; i < (width); i++) totals[i] += own[i]; \
            }                                                              \
            free(own);                                                     \
        }                                                                  \
    } while (0)

TASK(layer_norm_gradient) {
    const float *weight = in[1], *bias = in[2];
    const long n = shape[1];
    float *totals = malloc(2 * n * sizeof(float));
    PER_THREAD(2 * n, const float *x = in[0] + at; const float *g = in[3] + at;
         float *y = out[0] + at; float *dx = out[1] + at; float *dw = own; float *db = own + n;
         float scale; const float mean = row_moments(x, n, &scale); float part = 0; float both = 0;
         _Pragma("omp simd reduction(+ : part, both)") for (long i = 0; i < n; i++) {
             const float inner = g[i] * weight[i];
             part += inner;
             both += inner * (x[i] - mean);
         }
         part /= n; both *= scale / n;
         SIMD for (long i = 0; i < n; i++) {
             const float unit = (x[i] - mean) * scale;
             y[i] = unit * weight[i] + bias[i];
             dx[i] = scale * (g[i] * weight[i] - part - unit * both);
             dw[i] += g[i] * unit;
             db[i] += g[i];
         });
    memcpy(out[2], totals, n * sizeof(float));
    memcpy(out[3], totals + n, n * sizeof(float));
    free(totals);
}

TASK(rms_norm) {
    const float *weight = in[1];
    ROWS(const float *x = in[0] + at; float *y = out[0] + at;
         const float scale = 1 / __builtin_sqrtf(row_dot(x, x, columns) / columns + EPSILON);
         SIMD for (long i = 0; i < columns; i++) y[i] = x[i] * scale * weight[i];);
}

TASK(rms_norm_gradient) {
    const float *weight = in[1];
    const long n = shape[1];
    float *totals = out[2];
    PER_THREAD(n, const float *x = in[0] + at; const float *g = in[2] + at;
         float *y = out[0] + at; float *dx = out[1] + at; float part = 0; float both = 0;
         _Pragma("omp simd reduction(+ : part, both)") for (long i = 0; i < n; i++) {
             part += x[i] * x[i];
             both += g[i] * weight[i] * x[i];
         }
         const float scale = 1 / __builtin_sqrtf(part / n + EPSILON);
         both *= scale / n;
         SIMD for (long i = 0; i < n; i++) {
             const float unit = x[i] * scale;
             y[i] = unit * weight[i];
             dx[i] = scale * (g[i] * weight[i] - unit * both);
             own[i] += g[i] * unit;
         });
}

TASK(column_sums) {
    const long n = shape[1];
    float *totals = out[0];
    PER_THREAD(n, const float *x = in[0] + at; SIMD for (long i = 0; i < n; i++) own[i] += x[i];);
}

/* Labels are int64. */
static double entropy(const long *shape, float *const *in, float *dx) {
    const int64_t *label = (const int64_t *)in[1];
    const long rows = shape[0], columns = shape[1], n = rows * columns;
    const float share = 1.0f / rows;
    double total = 0;
    PARALLEL_SUM for (long r = 0; r < rows; r++) {
        const float *x = in[0] + r * columns;
        const float most = row_max(x, columns);
        float sum;
        if (dx) {
            float *d = dx + r * columns;
            sum = row_exp(x, d, most, columns);
            const float scale = share / sum;
            SIMD for (long i = 0; i < columns; i++) d[i] *= scale;
            d[label[r]] -= share;
        } else {
            sum = row_exp_sum(x, most, columns);
        }
        total += most + log_f(sum) - x[label[r]];
    }
    return total / rows;
}

TASK(cross_entropy) { *out[0] = (float)entropy(shape, in, NULL); }
TASK(cross_entropy_gradient) { *out[0] = (float)entropy(shape, in, out[1]); }

/* --- pairs, draws ------------------------------------------------------------------------------ */

/* shape: sources, targets. Inputs x [targets, 3], y [sources, 3], b, g. Sources are turned to columns first. */
static void gaussian_any(const long *shape, float *const *in, float *out, float *dx) {
    const long m = shape[0], rows = shape[1], columns = m;
    const float *x = in[0], *b = in[2], *g = dx ? in[3] : NULL;
    float *across = malloc(3 * m * sizeof(float));
    for (long j = 0; j < m; j++)
        for (int k = 0; k < 3; k++) across[k * m + j] = in[1][3 * j + k];
    const float *y0 = across, *y1 = across + m, *y2 = across + 2 * m;
    PARALLEL_ROWS for (long r = 0; r < rows; r++) {
        const float x0 = x[3 * r], x1 = x[3 * r + 1], x2 = x[3 * r + 2];
        float s = 0, s0 = 0, s1 = 0, s2 = 0;
        if (dx) {
            _Pragma("omp simd reduction(+ : s, s0, s1, s2)") for (long j = 0; j < m; j++) {
                const float d0 = x0 - y0[j], d1 = x1 - y1[j], d2 = x2 - y2[j];
                const float k = exp_f(-0.5f * (d0 * d0 + d1 * d1 + d2 * d2)) * b[j];
                s += k;
                s0 += k * d0;
                s1 += k * d1;
                s2 += k * d2;
            }
            dx[3 * r] = -g[r] * s0;
            dx[3 * r + 1] = -g[r] * s1;
            dx[3 * r + 2] = -g[r] * s2;
        } else {
            _Pragma("omp simd reduction(+ : s)") for (long j = 0; j < m; j++) {
                const float d0 = x0 - y0[j], d1 = x1 - y1[j], d2 = x2 - y2[j];
                s += exp_f(-0.5f * (d0 * d0 + d1 * d1 + d2 * d2)) * b[j];
            }
        }
        out[r] = s;
    }
    free(across);
}

TASK(gaussian) { gaussian_any(shape, in, out[0], NULL); }
TASK(gaussian_gradient) { gaussian_any(shape, in, out[0], out[1]); }

/* Philox 4x32-10 (Salmon et al., SC'11): four words for each counter. */
INLINE void philox(uint32_t counter, uint32_t stream, uint32_t *w0, uint32_t *w1, uint32_t *w2, uint32_t *w3) {
    uint32_t a = counter, b = 0, c = stream, d = 0, k0 = 20, k1 = 26;
    for (int round = 0; round < 10; round++) {
        const uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
        const uint32_t top = (uint32_t)(q >> 32) ^ b ^ k0, other = (uint32_t)(p >> 32) ^ d ^ k1;
        b = (uint32_t)q;
        d = (uint32_t)p;
        a = top;
        c = other;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    *w0 = a;
    *w1 = b;
    *w2 = c;
    *w3 = d;
}

/* Two normal numbers of two words (Box and Muller); the first uniform is in (0, 1]. */
INLINE void box_muller(uint32_t a, uint32_t b, float *first, float *second) {
    const float u = (float)((int32_t)(a >> 8) + 1) * 0x1p-24f;
    const float angle = (float)((int32_t)b) * 0x1p-31f * 3.14159265f;
    const float radius = __builtin_sqrtf(-2 * log_f(u));
    *first = radius * cos_f(angle);
    *second = radius * sin_f(angle);
}

INLINE void four_sums(long i, uint32_t stream, float *s0, float *s1, float *s2, float *s3) {
    uint32_t w0, w1, w2, w3, v0, v1, v2, v3;
    float a0, a1, a2, a3, b0, b1, b2, b3;
    philox((uint32_t)i, stream, &w0, &w1, &w2, &w3);
    philox((uint32_t)i, stream + 1, &v0, &v1, &v2, &v3);
    box_muller(w0, w1, &a0, &a1);
    box_muller(w2, w3, &a2, &a3);
    box_muller(v0, v1, &b0, &b1);
    box_muller(v2, v3, &b2, &b3);
    *s0 = a0 + b0;
    *s1 = a1 + b1;
    *s2 = a2 + b2;
    *s3 = a3 + b3;
}

/* The stream is a uint32 in the first input, counted on by each call. */
TASK(randn_sum) {
    uint32_t *state = (uint32_t *)in[0];
    const uint32_t stream = *state;
    const long n = shape[0], groups = n / 4;
    float *y = out[0];
    *state += 2;
    PARALLEL for (long c = 0; c < groups; c += CHUNK) {
        const long end = least(groups, c + CHUNK);
        SIMD for (long i = c; i < end; i++)
            four_sums(i, stream, y + 4 * i, y + 4 * i + 1, y + 4 * i + 2, y + 4 * i + 3);
    }
    float rest[4];
    four_sums(groups, stream, rest, rest + 1, rest + 2, rest + 3);
    for (long i = 4 * groups; i < n; i++) y[i] = rest[i - 4 * groups];
}
