/* A row of scores: by its rule, and its exponentials; for one kind of vector, see native_kernel.h.

   Place k of a row stands for key first_key + k. First keys are multiples of 2V, so that which sum a key goes
   into depends on its number alone; what a row does not attend is −inf, then 0, and changes no bit of it. */

/* tanh, as a quotient of polynomials: off by 3e-7 of it at most. */
INLINE VECTOR SET(tanh)(VECTOR x)
{
    x = MAX(ALL(-9.0f), MIN(ALL(9.0f), x)); /* NaN stays */
    VECTOR square = MUL(x, x);
    VECTOR over = FMA(ALL(1.335452565e-8f), square, ALL(2.060898136e-5f));
    over = FMA(over, square, ALL(3.495581942e-3f));
    over = FMA(over, square, ALL(1.338102044e-1f));
    over = FMA(over, square, ALL(9.999999795e-1f));
    VECTOR under = FMA(ALL(7.776501722e-7f), square, ALL(3.285624721e-4f));
    under = FMA(under, square, ALL(2.587695868e-2f));
    under = FMA(under, square, ALL(4.671433604e-1f));
    under = FMA(under, square, ALL(1.0f));
    return DIV(MUL(x, over), under);
}

/* A vector of numbers of which `left` are there, 0 in place of the rest. */
INLINE VECTOR SET(load_some)(const float *from, int64_t left)
{
    return left < V ? LOAD_FIRST(left, from) : LOAD(from);
}

INLINE MASK SET(seen_some)(const uint8_t *from, int64_t left)
{
    uint8_t last[V] = {0};
    if (left >= V)
        return SEEN(from);
    memcpy(last, from, left);
    return SEEN(last);
}

/* A vector of scores, those of place k on, as the rule has them. */
INLINE VECTOR SET(ruled)(const struct rule *rule, const struct sight *sight, int64_t k, VECTOR score)
{
    int64_t left = sight->keys - k;
    score = MUL(score, ALL(rule->scale));
    if (rule->softcap != 0)
        score = MUL(SET(tanh)(DIV(score, ALL(rule->softcap))), ALL(rule->softcap));
    if (sight->mask || sight->bias || sight->edits) {
        VECTOR added = sight->mask ? SET(load_some)(sight->mask + k, left) : ZERO();
        if (sight->bias)
            added = ADD(added, SET(load_some)(sight->bias + k, left));
        if (sight->edits)
            added = ADD(added, SET(load_some)(sight->edits + k, left));
        score = CHOOSE(OVER(ALL(-FLT_MAX), added), ALL(-INFINITY), ADD(score, added)); /* and not added: NaN */
    }
    return sight->seen ? CHOOSE(SET(seen_some)(sight->seen + k, left), score, ALL(-INFINITY)) : score;
}

/* The highest of a row; NaN where `sound`, sums of 0·q·k, says that some q·k is not finite. One that overflows on its
   way may be any number by the time it is whole: the reference has the last word on such rows. */
INLINE float SET(highest_sound)(VECTOR highest, VECTOR sound)
{
    return HIGHEST(highest) + SUM(sound);
}

/* Make a row what the rule has for it, −inf where it may not attend. Returns the highest. */
static TARGET float SET(score)(const struct rule *rule, const struct sight *sight, float *row)
{
    int64_t from = sight->from, to = sight->to, hole = sight->hole;
    VECTOR highest = ALL(-INFINITY), sound = ZERO();
    for (int64_t k = from / V * V; k < to; k += V) {
        VECTOR made = LOAD(row + k), one = SET(ruled)(rule, sight, k, made);
        if (k < from) {
            made = FIRST(from - k, ZERO(), made);
            one = FIRST(from - k, ALL(-INFINITY), one);
        }
        if (k + V > to) {
            made = FIRST(to - k, made, ZERO());
            one = FIRST(to - k, one, ALL(-INFINITY));
        }
        sound = FMA(made, ZERO(), sound);
        STORE(row + k, one);
        if (k <= hole && hole < k + V) {
            row[hole] = -INFINITY;
            one = LOAD(row + k);
        }
        highest = MAX(highest, one);
    }
    return SET(highest_sound)(highest, sound);
}

/* The highest of scale·row[k] for k < keys. */
INLINE float SET(highest)(const float *row, int64_t keys, float scale)
{
    int64_t whole = keys / V * V, left = keys - whole;
    VECTOR times = ALL(scale), highest = ALL(-INFINITY), sound = ZERO();
    for (int64_t k = 0; k < whole; k += V) {
        highest = MAX(highest, MUL(LOAD(row + k), times));
        sound = FMA(LOAD(row + k), ZERO(), sound);
    }
    if (left) {
        highest = MAX(highest, FIRST(left, MUL(LOAD(row + whole), times), ALL(-INFINITY)));
        sound = FMA(FIRST(left, LOAD(row + whole), ZERO()), ZERO(), sound);
    }
    return SET(highest_sound)(highest, sound);
}

/* e^(scale·x − most); 0 for x −∞ where rows have such, by `hidden`. */
INLINE VECTOR SET(power)(VECTOR x, VECTOR scale, VECTOR most, const bool hidden)
{
    /* Rounded as for the maximum: no exponent is over 0, however large the scores. */
    VECTOR power = MUL(SUB(MUL(x, scale), most), ALL(1.44269504088896341f));
    return SET(two_to)(hidden ? MAX(ALL(-200.0f), power) : power); /* NaN stays */
}

/* Make row[k] = e^(scale·row[k] − most) for from ≤ k < to, and 0 for all others of `end`, whole vectors. What
   stands before `from` in its vector is −∞. Returns their sum. */
INLINE float SET(exponents)(float *row, int64_t from, int64_t to, int64_t end, float scale, float most,
                            const bool hidden)
{
    int64_t k = from / V * V, whole = to / V * V, left = to - whole;
    VECTOR times = ALL(scale), less = ALL(most), sum = ZERO();
    for (int64_t before = 0; before < k; before += V)
        STORE(row + before, ZERO());
    for (; k < whole; k += V) {
        VECTOR e = SET(power)(LOAD(row + k), times, less, hidden);
        STORE(row + k, e);
        sum = ADD(sum, e);
    }
    if (left) {
        VECTOR e = FIRST(left, SET(power)(LOAD(row + k), times, less, hidden), ZERO());
        STORE(row + k, e);
        sum = ADD(sum, e);
        k += V;
    }
    for (; k < end; k += V)
        STORE(row + k, ZERO());
    return SUM(sum);
}

/* How many keys a row may attend, of those before `end`; `e`, where it is not NULL, gets 1 for each, 0 for others. */
static int64_t SET(attended)(const struct sight *sight, int64_t end, float *e)
{
    int64_t count = 0;
    if (e)
        memset(e, 0, end * sizeof(float));
    for (int64_t k = sight->from; k < sight->to; k++) {
        float added = (sight->mask ? sight->mask[k] : 0) + (sight->bias ? sight->bias[k] : 0);
        added += sight->edits ? sight->edits[k] : 0;
        if (k == sight->hole || added < -FLT_MAX || (sight->seen && !sight->seen[k]))
            continue;
        count++;
        if (!e)
            return count;
        e[k] = 1;
    }
    return count;
}

/* Make a row of scores exponentials, `end` of them; returns what it is to be multiplied by to be weights: to sum
   up to 1, or to what a sink leaves. The logsumexp goes to `lse`, unless NULL. */
static TARGET float SET(softmax)(const struct rule *rule, const struct sight *sight, float *row, int64_t end,
                                 float *lse)
{
    float most = SET(score)(rule, sight, row);
    if (most == -INFINITY && !SET(attended)(sight, end, NULL)) {
        memset(row, 0, end * sizeof(float));
        if (lse)
            *lse = -INFINITY;
        return 0;
    }
    float total = SET(exponents)(row, sight->from, sight->to, end, 1, most, true);
    if (!sight->sink) {
        if (lse)
            *lse = most + logf(total);
        return 1.0f / total;
    }
    float keys = most + logf(total), apart = *sight->sink - keys;
    if (lse) /* of the keys and the sink */
        *lse = (apart > 0 ? *sight->sink : keys) + log1pf(expf(-fabsf(apart)));
    return 1.0f / (total * (1 + expf(apart)));
}

/* The same of a row that sees its first `keys` keys, one at least, where nothing but the scale makes scores. */
static TARGET float SET(plain_softmax)(float *row, int64_t keys, int64_t end, float scale, float *lse)
{
    float most = SET(highest)(row, keys, scale), total = SET(exponents)(row, 0, keys, end, scale, most, false);
    if (lse)
        *lse = most + logf(total);
    return 1.0f / total;
}
