/* What is made of rows one by one, for one kind of vector, of which native_kernel.h says the operations: norms,
   activations, sums, rotations. A number's bits depend on its own row only. */

/* 2^t for t up to 126: a polynomial for what is beyond a whole number, off by 8e-8 of the result at most. */
INLINE VECTOR SET(two_to)(VECTOR t)
{
    VECTOR n = ROUND(t), f = SUB(t, n);
    VECTOR p = FMA(ALL(1.5353361960e-4f), f, ALL(1.3398875017e-3f));
    p = FMA(p, f, ALL(9.6184369177e-3f));
    p = FMA(p, f, ALL(5.5503323674e-2f));
    p = FMA(p, f, ALL(2.4022647738e-1f));
    p = FMA(p, f, ALL(6.9314718246e-1f));
    return TIMES_TWO_TO(FMA(p, f, ALL(1.0f)), n);
}

/* 1 / (1 + e^−t). */
INLINE VECTOR SET(sigmoid)(VECTOR t)
{
    VECTOR power = MAX(ALL(-126.0f), MIN(ALL(126.0f), MUL(t, ALL(-1.44269504088896341f)))); /* NaN stays */
    return DIV(ALL(1.0f), ADD(ALL(1.0f), SET(two_to)(power)));
}

/* x·Φ(x) = max(x, 0) − a·Φ(−a) for a = |x|, Φ of the standard normal distribution. Φ(−a) = e^(−a²/2)·t·R(t)
   for t = 1 / (1 + 0.305·a), with R fitted to the least relative error: 1e-7. */
INLINE VECTOR SET(gelu)(VECTOR x)
{
    VECTOR a = MAX(SUB(ZERO(), x), x);
    VECTOR t = DIV(ALL(1.0f), FMA(ALL(0.305f), a, ALL(1.0f)));
    VECTOR r = FMA(ALL(3.669927199e-2f), t, ALL(-1.529886635e-1f));
    r = FMA(r, t, ALL(1.857175255e-1f));
    r = FMA(r, t, ALL(-3.797741473e-2f));
    r = FMA(r, t, ALL(1.210219931e-1f));
    r = FMA(r, t, ALL(1.034207710e-1f));
    r = FMA(r, t, ALL(1.224668319e-1f));
    r = FMA(r, t, ALL(1.216397317e-1f));
    VECTOR power = MAX(ALL(-200.0f), MUL(MUL(a, a), ALL(-0.5f * 1.44269504088896341f)));
    VECTOR beyond = MUL(MUL(t, r), SET(two_to)(power));
    return SUB(MAX(ZERO(), x), MUL(a, beyond));
}

/* Its usual approximation by tanh, which is a sigmoid of twice as much. */
INLINE VECTOR SET(gelu_tanh)(VECTOR x)
{
    VECTOR cube = MUL(MUL(x, x), x);
    return MUL(x, SET(sigmoid)(MUL(ALL(1.5957691216057308f), FMA(ALL(0.044715f), cube, x))));
}

/* The same for what is rounded to bfloat16 next: x·(1/2 + y·P(y²)) for y = x within ±4.5, P fitted to the least
   error; off by 6e-5 at most, and by that part of x. NaN stays, infinity does or becomes NaN. */
INLINE VECTOR SET(rough_gelu)(VECTOR x)
{
    VECTOR above = MAX(ALL(-4.5f), x), y = MIN(ALL(4.5f), above), u = MUL(y, y);
    VECTOR p = FMA(ALL(2.999888675e-11f), u, ALL(-3.283810578e-09f));
    p = FMA(p, u, ALL(1.580221534e-07f));
    p = FMA(p, u, ALL(-4.431619707e-06f));
    p = FMA(p, u, ALL(8.120906787e-05f));
    p = FMA(p, u, ALL(-1.036250057e-03f));
    p = FMA(p, u, ALL(9.580647756e-03f));
    p = FMA(p, u, ALL(-6.597727599e-02f));
    p = FMA(p, u, ALL(3.987085837e-01f));
    return FMA(above, FMA(y, p, ALL(0.5f)), MUL(x, ZERO()));
}

#define SILU_OF(x) MUL(x, SET(sigmoid)(x))
#define QUICK_GELU_OF(x) MUL(x, SET(sigmoid)(MUL(ALL(1.702f), x)))
#define RELU_OF(x) MAX(ZERO(), x) /* NaN stays */
#define RELU2_OF(x) MUL(RELU_OF(x), RELU_OF(x))

/* Make each number of c [rows, columns], a vector of them at a time, what `of(it)` is. */
#define EACH(of)                                                                                          \
    for (int64_t i = 0; i < rows; i++, c += stride) {                                                     \
        int64_t j = 0;                                                                                    \
        for (; j + V <= columns; j += V) {                                                                \
            VECTOR x = LOAD(c + j);                                                                       \
            STORE(c + j, of(x));                                                                          \
        }                                                                                                 \
        if (j < columns) {                                                                                \
            float last[V] = {0};                                                                          \
            memcpy(last, c + j, (columns - j) * sizeof(float));                                           \
            VECTOR x = LOAD(last);                                                                        \
            STORE(last, of(x));                                                                           \
            memcpy(c + j, last, (columns - j) * sizeof(float));                                           \
        }                                                                                                 \
    }                                                                                                     \
    break

static TARGET void SET(activate)(int activation, float *c, int64_t stride, int64_t rows, int64_t columns)
{
    switch (activation) {
    case GELU:
        EACH(SET(gelu));
    case GELU_TANH:
        EACH(SET(gelu_tanh));
    case QUICK_GELU:
        EACH(QUICK_GELU_OF);
    case SILU:
        EACH(SILU_OF);
    case SIGMOID:
        EACH(SET(sigmoid));
    case RELU:
        EACH(RELU_OF);
    case RELU2:
        EACH(RELU2_OF);
    case ROUGH_GELU:
        EACH(SET(rough_gelu));
    }
}

/* c [count] += other. */
static TARGET void SET(add)(float *c, const float *other, int64_t count)
{
    int64_t j = 0;
    for (; j + V <= count; j += V)
        STORE(c + j, ADD(LOAD(c + j), LOAD(other + j)));
    for (; j < count; j++)
        c[j] += other[j];
}

/* c [count] *= other. */
static TARGET void SET(times)(float *c, const float *other, int64_t count)
{
    int64_t j = 0;
    for (; j + V <= count; j += V)
        STORE(c + j, MUL(LOAD(c + j), LOAD(other + j)));
    for (; j < count; j++)
        c[j] *= other[j];
}

/* Do what comes after a product to `rows` rows of it, the first of which is its row `at`. */
static TARGET void SET(finish)(const struct product *of, int64_t at, int64_t rows, float *c)
{
    const struct after *after = of->after;
    SET(activate)(after->activation, c, of->c_stride, rows, of->columns);
    for (int64_t i = 0; i < rows && after->times; i++)
        SET(times)(c + i * of->c_stride, after->times + (at + i) * after->times_stride, of->columns);
    for (int64_t i = 0; i < rows && after->plus; i++)
        SET(add)(c + i * of->c_stride, after->plus + (at + i) * after->plus_stride, of->columns);
}

/* The sum of (x − less)², or of x where `squared` is false. */
INLINE float SET(moment)(const float *x, int64_t width, float less, bool squared)
{
    VECTOR sums[4] = {ZERO(), ZERO(), ZERO(), ZERO()}, all = ALL(less);
    int64_t j = 0;
    for (; j + 4 * V <= width; j += 4 * V)
        for (int k = 0; k < 4; k++) {
            VECTOR one = SUB(LOAD(x + j + k * V), all);
            sums[k] = squared ? FMA(one, one, sums[k]) : ADD(sums[k], one);
        }
    for (; j + V <= width; j += V) {
        VECTOR one = SUB(LOAD(x + j), all);
        sums[0] = squared ? FMA(one, one, sums[0]) : ADD(sums[0], one);
    }
    float last = 0;
    for (; j < width; j++)
        last += squared ? (x[j] - less) * (x[j] - less) : x[j] - less;
    return SUM(ADD(ADD(sums[0], sums[1]), ADD(sums[2], sums[3]))) + last;
}

/* y [width], which may be x, is x normalised. */
static TARGET void SET(normalize)(const struct norm *norm, const float *x, int64_t width, float *y)
{
    const float *weight = norm->weight, *bias = norm->bias;
    float mean = norm->kind == LAYER_NORM ? SET(moment)(x, width, 0, false) / width : 0;
    float rstd = 1.0f / sqrtf(SET(moment)(x, width, mean, true) / width + norm->eps);
    VECTOR less = ALL(mean), by = ALL(rstd);
    int64_t j = 0;
    for (; j + V <= width; j += V) {
        VECTOR one = MUL(MUL(SUB(LOAD(x + j), less), by), LOAD(weight + j));
        STORE(y + j, bias ? ADD(one, LOAD(bias + j)) : one);
    }
    for (; j < width; j++)
        y[j] = (x[j] - mean) * rstd * weight[j] + (bias ? bias[j] : 0);
}

/* Turn x [2·half] by angles: its first half with its second, or neighbours with each other where `interleaved`. */
static TARGET void SET(rotate)(float *x, const float *cosines, const float *sines, int64_t half, bool interleaved)
{
    int64_t j = 0, apart = interleaved ? 1 : half, step = interleaved ? 2 : 1;
    for (; !interleaved && j + V <= half; j += V) {
        VECTOR one = LOAD(x + j), other = LOAD(x + half + j), c = LOAD(cosines + j), s = LOAD(sines + j);
        STORE(x + j, SUB(MUL(one, c), MUL(other, s)));
        STORE(x + half + j, ADD(MUL(other, c), MUL(one, s)));
    }
    for (; j < half; j++) {
        float one = x[step * j], other = x[step * j + apart];
        x[step * j] = one * cosines[j] - other * sines[j];
        x[step * j + apart] = other * cosines[j] + one * sines[j];
    }
}

#undef SILU_OF
#undef QUICK_GELU_OF
#undef RELU_OF
#undef RELU2_OF
#undef EACH
